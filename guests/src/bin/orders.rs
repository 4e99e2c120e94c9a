//! Bills orders, by WASI 0.2: see the world `orders`.
#![no_main]

use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasi::http::outgoing_handler::handle;
use wasi::http::types::{Fields, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasi::io::streams::StreamError;
use wasi::keyvalue::{atomics, store};
use wasi::logging::logging::{Level, log};

wit_bindgen::generate!({ path: "wit/orders", world: "orders", generate_all });

const BILLING: &str = "https://api.billing.test/v1/invoices";

struct Orders;

impl Guest for Orders {
    fn handle(order: String, notify: Option<String>) -> Result<Billed, String> {
        let state = store::open("state").map_err(text)?;
        let number = atomics::increment(&state, "orders", 1).map_err(text)?;
        log(Level::Info, "", &format!("order {number}: {order}"));

        let (invoice, found) = write_invoice(number, &order)?;
        let answer = post(BILLING, &invoice)?;
        if let Some(url) = notify
            && let Err(error) = post(&url, "your order is billed")
        {
            log(Level::Warn, "notify", &format!("{url}: {error}"));
        }
        Ok(Billed { number, answer, found })
    }
}

/// Gives what the file holds, and how many others there were before.
fn write_invoice(number: i64, order: &str) -> Result<(String, u32), String> {
    let (scratch, _) = get_directories().pop().ok_or("there is no directory to write in")?;
    let (files, mut found) = (scratch.read_directory().map_err(text)?, 0);
    while files.read_directory_entry().map_err(text)?.is_some() {
        found += 1;
    }
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let file = scratch.open_at(PathFlags::empty(), "invoice.txt", OpenFlags::CREATE, flags).map_err(text)?;
    file.write(format!("invoice {number}: {order}").as_bytes(), 0).map_err(text)?;
    let (bytes, _) = file.read(4096, 0).map_err(text)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), found))
}

/// The body of the answer. Knows nothing of any secret: that is put in on the way.
fn post(url: &str, body: &str) -> Result<String, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no URL")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_method(&Method::Post).map_err(|()| "method")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "authority")?;
    request.set_path_with_query(Some(path)).map_err(|()| "path")?;

    let sent = request.body().expect("the body is taken once");
    let response = handle(request, None).map_err(text)?;
    let stream = sent.write().expect("the stream is taken once");
    // Fails if the host refuses the rest; the response says why.
    let _ = stream.blocking_write_and_flush(body.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(sent, None);

    response.subscribe().block();
    let response = response.get().expect("it is ready").expect("it is taken once").map_err(text)?;
    let came = response.consume().expect("the body is consumed once");
    let stream = came.stream().expect("the stream is taken once");
    let mut answer = Vec::new();
    loop {
        match stream.blocking_read(4096) {
            Ok(chunk) => answer.extend(chunk),
            Err(StreamError::Closed) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            Err(error) => return Err(text(error)),
        }
    }
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

export!(Orders);
