//! Functions of kind [`http`](crate::Kind::Http): a request with a streaming body in, a streaming response out, in
//! process and without a socket.
//!
//! The call lives in the response's [`Body`]: reading the body is what drives the guest, and dropping it cancels the
//! call. The body ends when the guest has ended, so that an error after the response's head is still seen.

use crate::call::{self, CallOptions};
use crate::engine::http::{GuestBody, HttpError, serve};
use crate::engine::state::Flow;
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::function::{Function, Kind};
use crate::usage::Reply;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// A call that goes on while its response is read.
type Running = Pin<Box<dyn Future<Output = Result<Reply<()>>> + Send>>;

impl Function {
    /// Hands a request to a function of kind [`Http`](Kind::Http), and gives its response as soon as the head of it
    /// is there. A request without a host is for `localhost`.
    ///
    /// Read the response's body to its end: that drives the guest. The call's receipt is then in [`Body::reply`].
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
        let limits = &self.inner().blueprint.limits;
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
        let mut running: Running = Box::pin(async move {
            let inner = function.inner();
            call::run(inner, function.options(), None, async |lease| {
                lease.store.data_mut().flow = Some(Arc::clone(&counted));
                let served = serve(lease, &inner.blueprint, request, head, was_read).await;
                match counted.cut.load(Ordering::Relaxed) {
                    true => Err(too_much_input(inner.blueprint.limits.input).into()),
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
                return Ok(self.answer(got, running, read, flow));
            }
        };
        // The call is over; it may have answered before.
        match response.try_recv() {
            Ok(got) => Ok(self.answer(got, Box::pin(std::future::ready(ended)), read, flow)),
            Err(_) => Err(self.no_response(ended)),
        }
    }

    fn answer(
        &self,
        response: Response<GuestBody>,
        running: Running,
        read: oneshot::Sender<Result<()>>,
        flow: Arc<Flow>,
    ) -> Response<Body> {
        let limit = self.inner().blueprint.limits.output;
        response.map(|body| Body { body, running: Some(running), read: Some(read), flow, limit, ended: None })
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
        let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
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

/// The body of a guest's response, and the call behind it. Dropping it before its end cancels the call.
pub struct Body {
    body: GuestBody,
    running: Option<Running>,
    /// Tells the call that the body was read to its end, or why nobody reads on.
    read: Option<oneshot::Sender<Result<()>>>,
    flow: Arc<Flow>,
    limit: u64,
    ended: Option<Reply<()>>,
}

impl Body {
    /// The call's receipt, with what the guest wrote and was refused, once the body was read to its end. A call that
    /// failed has its receipt in the error.
    pub fn reply(&self) -> Option<&Reply<()>> {
        self.ended.as_ref()
    }

    /// Reads the body to its end. Trailers are read and dropped.
    ///
    /// # Errors
    /// [`ErrorKind::OutputTooLarge`], [`ErrorKind::Exited`] for a guest that broke its response off, or whatever else
    /// ended the call.
    pub async fn bytes(mut self) -> Result<Reply<Bytes>> {
        let mut all = bytes::BytesMut::new();
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                all.extend_from_slice(&data);
            }
        }
        let ended = self.ended.ok_or_else(|| Error::new(ErrorKind::Internal, "a body ended before its call did"))?;
        Ok(ended.map(|()| all.freeze()))
    }

    /// Ends the reading, and with it the call: well, or as that error.
    fn finish(&mut self, reason: Result<()>) {
        if let Some(read) = self.read.take() {
            // A call that is over has its own reason.
            let _ = read.send(reason);
        }
    }

    /// The next frame of the body while there is one and it is allowed.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let reason = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let total = self.flow.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if total <= self.limit {
                    return Poll::Ready(Some(frame));
                }
                let text =
                    format!("its response has more than {} bytes; raise `Limits::output` if that is right", self.limit);
                Err(Error::new(ErrorKind::OutputTooLarge, text))
            }
            Some(Err(error)) => {
                Err(Error::new(ErrorKind::Exited, "the guest broke its response off").because([error.to_string()]))
            }
            None => Ok(()),
        };
        self.finish(reason);
        Poll::Ready(None)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        loop {
            if let Some(running) = &mut this.running
                && let Poll::Ready(ended) = running.as_mut().poll(cx)
            {
                this.running = None;
                match ended {
                    Ok(reply) => this.ended = Some(reply),
                    Err(error) => {
                        this.read = None;
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
            if this.read.is_none() {
                // The body was read; only the call's own end is awaited.
                return if this.running.is_some() { Poll::Pending } else { Poll::Ready(None) };
            }
            if let Some(frame) = ready!(this.poll_body(cx)) {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("ended", &self.ended.is_some()).finish_non_exhaustive()
    }
}
