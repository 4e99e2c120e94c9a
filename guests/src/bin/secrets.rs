//! Uses secrets, and tries to give them away: see the world `secrets`.
#![no_main]

use isopod::secrets::secrets::{Secret, get};
use wasi::cli::{stderr, stdout};
use wasi::http::outgoing_handler::handle;
use wasi::http::types::{Fields, OutgoingBody, OutgoingRequest, Scheme};
use wasi::io::streams::StreamError;

wit_bindgen::generate!({ path: "wit/secrets", world: "secrets", generate_all });

struct Secrets;

impl Guest for Secrets {
    fn fetch(
        scheme: String,
        authority: String,
        path: String,
        headers: Vec<(String, String)>,
    ) -> Result<String, String> {
        let mut sent = Vec::new();
        for (name, value) in headers {
            sent.push((name, fill(value)?.into_bytes()));
        }
        let out = OutgoingRequest::new(Fields::from_list(&sent).map_err(text)?);
        let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
        out.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
        out.set_authority(Some(&authority)).map_err(|()| "authority")?;
        out.set_path_with_query(Some(&path)).map_err(|()| "path")?;
        let body = out.body().expect("the body is taken once");
        let response = handle(out, None).map_err(text)?;
        let _ = OutgoingBody::finish(body, None);
        response.subscribe().block();
        let response = response.get().expect("it is ready").expect("it is taken once").map_err(text)?;
        let mut all = format!("{}\n", response.status());
        for (name, value) in response.headers().entries() {
            all += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
        }
        let body = response.consume().expect("the body is consumed once");
        let stream = body.stream().expect("the stream is taken once");
        loop {
            match stream.blocking_read(4096) {
                Ok(chunk) => all += &String::from_utf8_lossy(&chunk),
                Err(StreamError::Closed) => return Ok(all),
                Err(error) => return Err(text(error)),
            }
        }
    }

    fn equals(name: String, candidate: Vec<u8>) -> Result<bool, String> {
        secret(&name)?.equals(&candidate).map_err(text)
    }

    fn reveal(name: String) -> Result<Vec<u8>, String> {
        secret(&name)?.reveal().map_err(text)
    }

    fn placeholder(name: String) -> Result<String, String> {
        Ok(secret(&name)?.placeholder())
    }

    fn blurt(said: String) {
        for out in [stdout::get_stdout(), stderr::get_stderr()] {
            for piece in said.as_bytes().chunks(4096) {
                out.blocking_write_and_flush(piece).expect("output is taken");
            }
        }
        panic!("{said}");
    }
}

/// Puts placeholders where names stand in braces.
fn fill(value: String) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = value.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("a brace is open")?;
        filled += before;
        filled += &secret(name)?.placeholder();
        rest = after;
    }
    Ok(filled + rest)
}

fn secret(name: &str) -> Result<Secret, String> {
    get(name).map_err(text)
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

export!(Secrets);
