//! Sends requests by WASI 0.2: see the world `http-client`.
#![no_main]

use wasi::http::outgoing_handler::handle;
use wasi::http::types::{
    Fields, FutureIncomingResponse, IncomingBody, Method, OutgoingBody, OutgoingRequest, Scheme, http_error_code,
};
use wasi::io::streams::StreamError;

wit_bindgen::generate!({ path: "wit/http-p2", world: "http-client", generate_all });

/// What `blocking-write-and-flush` takes at most in one go.
const CHUNK: u64 = 4096;

struct Client;

impl Guest for Client {
    fn fetch(request: Request) -> Result<Response, String> {
        let sent: Result<Vec<_>, _> = (0..request.copies).map(|_| send(&request)).collect();
        let mut response = Err("none was sent".to_owned());
        for sent in sent? {
            response = Ok(receive(&sent)?);
        }
        response
    }
}

fn send(request: &Request) -> Result<FutureIncomingResponse, String> {
    let headers: Vec<_> =
        request.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    let out = OutgoingRequest::new(Fields::from_list(&headers).map_err(name)?);
    let invalid = |what: &str| format!("invalid {what}");
    let scheme = match request.scheme.as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let method = if request.method == "GET" { Method::Get } else { Method::Other(request.method.clone()) };
    out.set_method(&method).map_err(|()| invalid("method"))?;
    out.set_scheme(Some(&scheme)).map_err(|()| invalid("scheme"))?;
    out.set_authority(Some(&request.authority)).map_err(|()| invalid("authority"))?;
    out.set_path_with_query(Some(&request.path)).map_err(|()| invalid("path"))?;

    let body = out.body().expect("the body is taken once");
    let response = handle(out, None).map_err(name)?;
    let stream = body.write().expect("the stream is taken once");
    // Fails if the host refuses the rest; the response says why.
    let _ = request.body.chunks(CHUNK as usize).try_for_each(|chunk| stream.blocking_write_and_flush(chunk));
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
    Ok(response)
}

fn receive(response: &FutureIncomingResponse) -> Result<Response, String> {
    response.subscribe().block();
    let response = response.get().expect("it is ready").expect("it is taken once").map_err(name)?;
    let status = response.status();
    let headers = response.headers().entries();
    let headers = headers.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
    let headers = headers.collect();
    let body = read(&response.consume().expect("the body is consumed once"))?;
    Ok(Response { status, headers, body })
}

fn read(body: &IncomingBody) -> Result<Vec<u8>, String> {
    let stream = body.stream().expect("the stream is taken once");
    let mut all = Vec::new();
    loop {
        match stream.blocking_read(CHUNK) {
            Ok(chunk) => all.extend(chunk),
            Err(StreamError::Closed) => return Ok(all),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(http_error_code(&error).map_or_else(|| error.to_debug_string(), name));
            }
        }
    }
}

/// The name of an error code, without what comes with it.
fn name(code: impl std::fmt::Debug) -> String {
    let text = format!("{code:?}");
    let name = text.strip_prefix("ErrorCode::").unwrap_or(&text);
    name.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

export!(Client);
