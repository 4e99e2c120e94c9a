//! An HTTP service of WASI 0.2. Its routes are those of http-hello-p3:
//!
//! * `GET /hello`: a text
//! * `POST /echo`: the request body, chunk by chunk
//! * `GET /stream?n=3`: n chunks
//! * `GET /status?code=404`: an empty answer with that status
//! * `GET /trap`: head and first chunk, then a trap
//! * else 404
#![no_main]

use exports::wasi::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasi::io::streams::{OutputStream, StreamError};

wit_bindgen::generate!({ path: "wit/http-p2", world: "http-hello", generate_all });

/// What `blocking-write-and-flush` takes at most in one go.
const CHUNK: u64 = 4096;

struct HttpHello;

impl Guest for HttpHello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match (request.method(), path) {
            (Method::Get, "/hello") => respond(out, 200, |body| write(body, b"Hello from WASI 0.2\n")),
            (Method::Post, "/echo") => {
                let body = request.consume().expect("the body is consumed once");
                respond(out, 200, |out| echo(&body, out));
            }
            (Method::Get, "/stream") => respond(out, 200, |body| {
                let chunks: u64 = number(query, "n").unwrap_or(1);
                (0..chunks).try_for_each(|at| write(body, format!("chunk {at}\n").as_bytes()))
            }),
            (Method::Get, "/status") => respond(out, number(query, "code").unwrap_or(400), |_| Ok(())),
            (Method::Get, "/trap") => respond(out, 200, |body| {
                write(body, b"the last words\n")?;
                panic!("asked for a trap")
            }),
            _ => respond(out, 404, |_| Ok(())),
        }
    }
}

/// Sends the head at once, then lets `body` write. A status that HTTP does not have becomes 400.
fn respond(out: ResponseOutparam, status: u16, body: impl FnOnce(&OutputStream) -> Result<(), StreamError>) {
    let headers = Fields::from_list(&[("content-type".to_string(), b"text/plain".to_vec())]).expect("a valid header");
    let response = OutgoingResponse::new(headers);
    if response.set_status_code(status).is_err() {
        response.set_status_code(400).expect("400 is a status");
    }
    let outgoing = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));

    let stream = outgoing.write().expect("the stream is taken once");
    let written = body(&stream);
    // The stream is a child of the body and must go first.
    drop(stream);
    // A body that was not written to its end is dropped without `finish`, which tells the client that it is cut off.
    if written.is_ok() {
        // Fails if the client is gone: nobody is left to tell.
        let _ = OutgoingBody::finish(outgoing, None);
    }
}

/// Sends each chunk on before it reads the next: no more than one is ever held.
fn echo(from: &IncomingBody, to: &OutputStream) -> Result<(), StreamError> {
    let from = from.stream().expect("the stream is taken once");
    loop {
        match from.blocking_read(CHUNK) {
            Ok(chunk) => write(to, &chunk)?,
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn write(to: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    bytes.chunks(CHUNK as usize).try_for_each(|chunk| to.blocking_write_and_flush(chunk))
}

/// The number called `name` in a query such as `n=3&m=4`.
fn number<N: std::str::FromStr>(query: &str, name: &str) -> Option<N> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)?.1.parse().ok())
}

export!(HttpHello);
