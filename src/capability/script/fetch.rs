//! Requests of scripts: what `fetch` asks, as the same request that a guest sends by `wasi:http`.

use crate::bindings::script::isopod::script::tasks as wit;
use crate::capability::http::MAX_FIELDS;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use url::Url;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, WasiBody};

/// Bytes of bodies that one call has in the host and has not read: as many as a guest may have the host copy at once.
const MAX_HELD: usize = 4 * 1024 * 1024;
/// Of each body besides, so that one that is read goes on though others, which are not, have all that room.
const OWN: usize = 16 * 1024;
/// Room that a piece takes at least: it is more than its bytes.
const LEAST: usize = 256;

/// The request, or what is wrong with it.
pub(super) fn request(given: wit::Request) -> Result<Request<WasiBody>, String> {
    let wit::Request { method, url, headers, body } = given;
    let mut url = Url::parse(&url).map_err(|e| format!("it is no URL: {e}"))?;
    url.set_fragment(None);
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| "its method is none of HTTP".to_owned())?;
    let uri: Uri = url.as_str().parse().map_err(|e| format!("it is no URL of HTTP: {e}"))?;
    let mut request =
        Request::new(Full::new(Bytes::from(body.unwrap_or_default())).map_err(|e| match e {}).boxed_unsync());
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    let mut size = 0;
    for (name, value) in headers {
        size += name.len() + value.len();
        if size > MAX_FIELDS {
            return Err(format!("its headers have more than {MAX_FIELDS} bytes"));
        }
        let name: HeaderName = name.parse().map_err(|_| "the name of a header has characters that it cannot have")?;
        let value = value.chars().map(u8::try_from).collect::<Result<Vec<u8>, _>>().ok();
        let value = value.and_then(|value| HeaderValue::from_bytes(&value).ok());
        let value = value.ok_or_else(|| format!("the header {name} has characters that it cannot have"))?;
        // Those that the connection decides about, which browsers drop as well.
        if name != CONTENT_LENGTH && !DEFAULT_FORBIDDEN_HEADERS.contains(&name) {
            request.headers_mut().append(name, value);
        }
    }
    Ok(request)
}

/// The bodies of responses that a call has not read to their ends.
pub(super) struct Bodies {
    next: u32,
    open: HashMap<u32, Body>,
    room: Arc<Semaphore>,
}

pub(super) type Body = mpsc::UnboundedReceiver<Result<Piece, Error>>;

/// Some bytes of a body, which hold their room in the host until they are read.
pub(super) struct Piece {
    pub data: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Default for Bodies {
    fn default() -> Bodies {
        Bodies { next: 0, open: HashMap::new(), room: Arc::new(Semaphore::new(MAX_HELD)) }
    }
}

impl Bodies {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes a response in. The future has its body come, as far as there is room, so that a script that waits for many
    /// responses before it reads any does not keep the last from beginning.
    pub(super) fn open(
        &mut self,
        response: Response<WasiBody>,
    ) -> (wit::Response, impl Future<Output = ()> + Send + use<>) {
        let (sender, body) = mpsc::unbounded_channel();
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(id, body);
        let (parts, body) = response.into_parts();
        let text = |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value)));
        let response = wit::Response { status: parts.status.as_u16(), headers: headers.collect(), body: id };
        (response, pump(body, sender, Arc::clone(&self.room)))
    }

    /// Takes a body out, to read of it.
    pub(super) fn take(&mut self, id: u32) -> Option<Body> {
        self.open.remove(&id)
    }

    /// Puts it back, as it is not at its end.
    pub(super) fn put(&mut self, id: u32, body: Body) {
        self.open.insert(id, body);
    }
}

async fn pump(mut body: WasiBody, to: mpsc::UnboundedSender<Result<Piece, Error>>, room: Arc<Semaphore>) {
    let own = Arc::new(Semaphore::new(OWN));
    let pumped = async {
        while let Some(frame) = body.frame().await {
            let mut data = match frame {
                // Trailers are not for scripts.
                Ok(frame) => frame.into_data().unwrap_or_default(),
                Err(error) => return drop(to.send(Err(error))),
            };
            while !data.is_empty() {
                let data = data.split_to(data.len().min(OWN));
                let size = data.len().max(LEAST) as u32;
                let room = tokio::select! {
                    biased;
                    room = Arc::clone(&room).acquire_many_owned(size) => room,
                    room = Arc::clone(&own).acquire_many_owned(size) => room,
                };
                // They are never closed.
                let Ok(room) = room else { return };
                if to.send(Ok(Piece { data, _room: room })).is_err() {
                    return;
                }
            }
        }
    };
    // Nobody reads it any more.
    tokio::select! { () = pumped => {}, () = to.closed() => {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(url: &str, headers: &[(&str, &str)]) -> Result<Request<WasiBody>, String> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        request(wit::Request { method: "GET".into(), url: url.into(), headers, body: None })
    }

    #[test]
    fn requests_are_as_those_of_other_guests() {
        let sent =
            given("https://a.example/b?c#d", &[("Host", "evil"), ("content-length", "9"), ("X-A", "\u{e9}")]).unwrap();
        assert_eq!(sent.uri(), "https://a.example/b?c");
        assert_eq!(sent.headers().len(), 1);
        assert_eq!(sent.headers()["x-a"].as_bytes(), [0xe9]);
        for (url, headers, why) in [
            ("/b", &[][..], "no URL"),
            ("https://a.example", &[("a b", "c")], "the name of a header"),
            ("https://a.example", &[("a", "c\r\nd: e")], "the header a has characters"),
            ("https://a.example", &[("a", "\u{100}")], "the header a has characters"),
            ("https://a.example", &[("a", &"x".repeat(MAX_FIELDS))], "bytes"),
        ] {
            let refused = given(url, headers).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_body_comes_while_nobody_reads_and_goes_when_nobody_will() {
        let mut bodies = Bodies::default();
        let body = || Full::new(Bytes::from_static(b"abc")).map_err(|e| match e {}).boxed_unsync();
        let (response, pump) = bodies.open(Response::new(body()));
        pump.await;
        let mut first = bodies.take(response.body).unwrap();
        assert_eq!(bodies.room.available_permits(), MAX_HELD - LEAST);
        assert_eq!(&first.recv().await.unwrap().unwrap().data[..], b"abc");
        assert!(first.recv().await.is_none());
        assert_eq!(bodies.room.available_permits(), MAX_HELD);
        // One that never ends.
        let endless = http_body_util::StreamBody::new(futures_util::stream::pending()).boxed_unsync();
        let (response, pump) = bodies.open(Response::new(endless));
        drop(bodies.take(response.body));
        pump.await;
    }
}
