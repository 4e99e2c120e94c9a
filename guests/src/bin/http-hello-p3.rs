//! An HTTP service of WASI 0.3, on the component model's async ABI. Its routes are those of http-hello-p2:
//!
//! * `GET /hello`: a text
//! * `POST /echo`: the request body, chunk by chunk, then its trailers
//! * `GET /stream?n=3`: n chunks
//! * `GET /status?code=404`: an empty answer with that status
//! * `GET /trap`: head and first chunk, then a trap
//! * else 404
#![no_main]

use exports::wasi::http::handler::Guest;
use wasi::http::types::{ErrorCode, Fields, Method, Request, Response, Trailers};
use wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter};

wit_bindgen::generate!({ path: "wit/http-p3", world: "http-hello", generate_all });

/// How many bytes of a body are read in one go.
const CHUNK: usize = 4096;

/// How a body ends.
type End = Result<Option<Trailers>, ErrorCode>;

struct HttpHello;

impl Guest for HttpHello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match (request.get_method(), path) {
            (Method::Get, "/hello") => respond(200, async |mut body| {
                body.write_all(b"Hello from WASI 0.3\n".to_vec()).await;
                Ok(None)
            }),
            (Method::Post, "/echo") => {
                let (_, no_error) = wit_future::new(|| Ok(()));
                let (from, end) = Request::consume_body(request, no_error);
                respond(200, async |to| echo(from, end, to).await)
            }
            (Method::Get, "/stream") => {
                let chunks: u64 = number(query, "n").unwrap_or(1);
                respond(200, async move |mut body| {
                    for at in 0..chunks {
                        // What is left unwritten says that the client is gone.
                        if !body.write_all(format!("chunk {at}\n").into_bytes()).await.is_empty() {
                            break;
                        }
                    }
                    Ok(None)
                })
            }
            (Method::Get, "/status") => respond(number(query, "code").unwrap_or(400), async |_| Ok(None)),
            (Method::Get, "/trap") => respond(200, async |mut body| {
                body.write_all(b"the last words\n".to_vec()).await;
                panic!("asked for a trap")
            }),
            _ => respond(404, async |_| Ok(None)),
        })
    }
}

/// A response whose body is written by a task that goes on after the head was handed over. A status that HTTP does not
/// have becomes 400.
fn respond(status: u16, body: impl AsyncFnOnce(StreamWriter<u8>) -> End + 'static) -> Response {
    let headers = Fields::from_list(&[("content-type".to_string(), b"text/plain".to_vec())]).expect("a valid header");
    let (to, stream) = wit_stream::new();
    // The default is what the host sees if the task ends without a word.
    let (ended, end) = wit_future::new(|| Err(ErrorCode::InternalError(Some("the body was cut off".to_string()))));
    // `_sent` would tell whether the response reached the client.
    let (response, _sent) = Response::new(headers, Some(stream), end);
    if response.set_status_code(status).is_err() {
        response.set_status_code(400).expect("400 is a status");
    }
    wit_bindgen::spawn_local(async move {
        let end = body(to).await;
        // Fails if the client is gone: nobody is left to tell.
        let _ = ended.write(end).await;
    });
    response
}

/// Sends each chunk on before it reads the next: no more than one is ever held.
async fn echo(mut from: StreamReader<u8>, end: FutureReader<End>, mut to: StreamWriter<u8>) -> End {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        let (result, mut chunk) = from.read(buffer).await;
        if !chunk.is_empty() {
            chunk = to.write_all(chunk).await;
            if !chunk.is_empty() {
                return Ok(None);
            }
            chunk = Vec::with_capacity(CHUNK);
        }
        if result == StreamResult::Dropped {
            break;
        }
        buffer = chunk;
    }
    // The body ends before its trailers do: close the stream first.
    drop(from);
    drop(to);
    end.await
}

/// The number called `name` in a query such as `n=3&m=4`.
fn number<N: std::str::FromStr>(query: &str, name: &str) -> Option<N> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)?.1.parse().ok())
}

export!(HttpHello);
