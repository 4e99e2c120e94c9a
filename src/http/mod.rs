//! Functions of kind [`http`](crate::Kind::Http): a request with a streaming body in, a streaming response out, in
//! process and without a socket.
//!
//! The call lives in the response's [`Body`]: reading the body is what drives the guest, and dropping it cancels the
//! call. The body ends when the guest has ended, so that an error after the response's head is still seen.

mod body;
mod running;

pub use body::Body;

use crate::call::{self, CallOptions};
use crate::engine;
use crate::engine::entry::Entry;
use crate::engine::http::{HttpError, serve, serve_among};
use crate::engine::state::Flow;
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::function::{Function, Kind};
use crate::usage::Reply;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use running::Running;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

impl Function {
    /// Hands a request to a function of kind [`Http`](Kind::Http), and gives its response as soon as the head of it
    /// is there. A request without a host is for `localhost`.
    ///
    /// Read the response's body to its end: that drives the guest. The call's receipt is then in [`Body::reply`].
    /// Requests and bodies are those of the crates `http` and `http-body`, which servers use.
    ///
    /// ```
    /// # async fn run(function: isopod::Function) -> Result<(), Box<dyn std::error::Error>> {
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    ///
    /// let request = http::Request::post("/echo").body(Full::new(Bytes::from("hello")))?;
    /// let response = function.http(request).await?;
    /// println!("{}", response.status());
    /// let reply = response.into_body().bytes().await?;
    /// println!("{:?} [{}]", reply.value, reply.usage);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::WrongExport`] for a function of another kind, [`ErrorKind::Exited`] for a guest that gave no
    /// response; then whatever ends a call. What happens after the head is an error of the body.
    pub async fn http<B>(&self, request: Request<B>) -> Result<Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: fmt::Display,
    {
        self.require(Kind::Http, "http", "wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3")?;
        let limits = self.inner().limits();
        let flow = Arc::new(Flow::default());
        let (mut parts, body) = request.into_parts();
        if parts.uri.authority().is_none() && !parts.headers.contains_key(header::HOST) {
            parts.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        }
        // The guest is told a host as text, and has no part in what the client sent.
        if parts.headers.get(header::HOST).is_some_and(|host| host.to_str().is_err()) {
            let text = "the request's Host header is not text; refuse such a request before it gets here";
            return Err(Error::new(ErrorKind::WrongArguments, text).of(self.shared_name()));
        }
        let inflow = Inflow { body: Box::pin(body), flow: Arc::clone(&flow), limit: limits.input };
        let request = Request::from_parts(parts, inflow.boxed_unsync());
        let (head, mut response) = oneshot::channel();
        let (read, was_read) = oneshot::channel();
        let function = self.clone();
        let counted = Arc::clone(&flow);
        let clock = self.inner().host.clock.clone();
        let mut running = Running::new(clock, call::time_limit(limits, self.options()), async move {
            let inner = function.inner();
            if matches!(inner.entry, Entry::Http03(_)) && call::is_shared(inner, function.options()) {
                return function.http_among(request, head, was_read, counted).await;
            }
            call::run(inner, function.options(), None, async |lease| {
                lease.store.data_mut().flow = Some(Arc::clone(&counted));
                let served = serve(lease, &inner.entry, request, head, was_read).await;
                match counted.cut.load(Ordering::Relaxed) {
                    true => Err(too_much_input(inner.limits().input).into()),
                    false => served,
                }
            })
            .await
        });
        let ended = tokio::select! {
            biased;
            ended = &mut running => ended,
            got = &mut response => {
                let Ok(got) = got else {
                    // The sender is gone, so the call is about to say why.
                    return Err(self.no_response(running.await));
                };
                return Ok(got.map(|body| Body::new(body, running, read, flow, limits.output)));
            }
        };
        // The call is over; it may have answered before.
        match response.try_recv() {
            Ok(got) => {
                running.unread(ended);
                Ok(got.map(|body| Body::new(body, running, read, flow, limits.output)))
            }
            Err(_) => Err(self.no_response(ended)),
        }
    }

    async fn http_among(
        &self,
        request: engine::http::Request,
        head: oneshot::Sender<engine::http::Response>,
        was_read: oneshot::Receiver<Result<()>>,
        flow: Arc<Flow>,
    ) -> Result<Reply<()>> {
        call::run_among(self.inner(), self.options(), async |place| {
            let (function, counted) = (self.clone(), Arc::clone(&flow));
            place.flow(flow);
            place
                .run(move |part| {
                    Box::pin(async move {
                        let inner = function.inner();
                        let served = serve_among(part, &inner.entry, request, head, was_read).await;
                        match counted.cut.load(Ordering::Relaxed) {
                            true => Err(too_much_input(inner.limits().input).into()),
                            false => served,
                        }
                    })
                })
                .await
        })
        .await
    }

    fn no_response(&self, ended: Result<Reply<()>>) -> Error {
        let silent = || Error::new(ErrorKind::Exited, "the guest gave no response; report it to the guest's author");
        ended.err().unwrap_or_else(|| silent().of(self.shared_name()))
    }
}

fn too_much_input(limit: u64) -> Error {
    Error::new(
        ErrorKind::LimitExceeded(Limit::Input),
        format!("the request's body has more than {limit} bytes; send less, or raise `Limits::input`"),
    )
}

/// The request's body, counted, as the guest reads it.
struct Inflow<B> {
    body: Pin<Box<B>>,
    flow: Arc<Flow>,
    limit: u64,
}

impl<B> http_body::Body for Inflow<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(|e| HttpError::InternalError(Some(e.to_string())));
        let data = frame.as_ref().ok().and_then(Frame::data_ref);
        if data.is_some_and(Bytes::is_empty) {
            // Who reads goes on to the next piece at once, so that nobody else would get the thread.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let bytes = data.map_or(0, |data| data.len() as u64);
        let total = self.flow.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if total > self.limit {
            self.flow.cut.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(HttpError::HttpRequestBodySize(Some(total)))));
        }
        Poll::Ready(Some(frame))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
