//! [`Body`]: the response's body, and the call behind it.

use super::running::Running;
use crate::engine::http::GuestBody;
use crate::engine::state::Flow;
use crate::error::{Error, ErrorKind, Result};
use crate::usage::Reply;
use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// The body of a guest's response, and the call behind it. Dropping it before its end cancels the call; whoever keeps it
/// and does not read, keeps the call only until its deadline.
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
    pub(super) fn new(
        body: GuestBody,
        running: Running,
        read: oneshot::Sender<Result<()>>,
        flow: Arc<Flow>,
        limit: u64,
    ) -> Body {
        Body { body, running: Some(running), read: Some(read), flow, limit, ended: None }
    }

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
                && let Poll::Ready(ended) = Pin::new(running).poll(cx)
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
