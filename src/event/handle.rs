//! Functions of kind [`event`](crate::Kind::Event): one event in, a reply or the guest's own error out.

use super::Event;
use crate::bindings::exports::isopod::function::handler;
use crate::call::{self, CallOptions};
use crate::engine::entry::Entry;
use crate::engine::trap;
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::function::{Function, Kind};
use crate::usage::Reply;
use bytes::Bytes;

/// What a handled event gives back.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Handled {
    /// The payload, if there is something to answer.
    pub data: Option<Bytes>,
    /// The media type of `data`.
    pub content_type: Option<String>,
}

/// Why a guest did not handle an event: its own word, a value and not an [`Error`].
///
/// The text is the guest's and unsanitised.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unhandled {
    /// Worth another try later.
    Retry(String),
    /// Trying again gives the same result.
    Permanent(String),
}

impl Function {
    /// Hands one event to a function of kind [`Event`](Kind::Event).
    ///
    /// ```
    /// # async fn run(function: isopod::Function, event: isopod::Event) -> isopod::Result<()> {
    /// use isopod::Unhandled;
    ///
    /// match function.handle(event).await?.value {
    ///     Ok(handled) => println!("{:?}", handled.data),
    ///     Err(Unhandled::Retry(why)) => println!("later: {why}"),
    ///     Err(never) => println!("never: {never:?}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::WrongExport`] for a function of another kind; then whatever ends a call.
    pub async fn handle(&self, event: Event) -> Result<Reply<Result<Handled, Unhandled>>> {
        self.require(Kind::Event, "handle", "isopod:function/handler")?;
        let inner = self.inner();
        let limits = inner.limits();
        let bytes = event.size();
        if bytes > limits.input {
            let text =
                format!("the event has {bytes} bytes, more than {}; pass less, or raise `Limits::input`", limits.input);
            return Err(Error::new(ErrorKind::LimitExceeded(Limit::Input), text).of(&inner.name));
        }
        let event = event.into_wit();
        call::run(inner, self.options(), None, async |lease| {
            lease.store.data_mut().bytes_in += bytes;
            let instance = lease.instance()?;
            let Entry::Event(indices) = &inner.entry else {
                return Err(Error::new(ErrorKind::Internal, "it handles no events; please report this").into());
            };
            let world = indices.load(&mut lease.store, &instance)?;
            let answer = world.isopod_function_handler().call_handle(&mut lease.store, &event).await?;
            let size = match &answer {
                Ok(reply) => {
                    reply.data.as_ref().map_or(0, Vec::len) + reply.datacontenttype.as_ref().map_or(0, String::len)
                }
                Err(handler::Error::Retry(text) | handler::Error::Permanent(text)) => text.len(),
            };
            lease.store.data_mut().bytes_out += size as u64;
            if size as u64 > limits.output {
                return Err(trap::output_too_large(limits).into());
            }
            Ok(match answer {
                Ok(reply) => Ok(Handled { data: reply.data.map(Bytes::from), content_type: reply.datacontenttype }),
                Err(handler::Error::Retry(text)) => Err(Unhandled::Retry(text)),
                Err(handler::Error::Permanent(text)) => Err(Unhandled::Permanent(text)),
            })
        })
        .await
    }
}

impl Event {
    fn size(&self) -> u64 {
        let texts = [&self.id, &self.source, &self.kind].map(String::len).iter().sum::<usize>();
        let options = [&self.subject, &self.time, &self.content_type, &self.schema];
        let options = options.iter().filter_map(|text| text.as_ref()).map(String::len).sum::<usize>();
        let extensions = self.extensions.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        (texts + options + extensions + self.data.as_ref().map_or(0, Bytes::len)) as u64
    }

    fn into_wit(self) -> handler::Event {
        handler::Event {
            id: self.id,
            source: self.source,
            type_: self.kind,
            subject: self.subject,
            time: self.time,
            datacontenttype: self.content_type,
            dataschema: self.schema,
            extensions: self.extensions.into_iter().map(|(name, value)| (name, value.to_string())).collect(),
            data: self.data.map(Vec::from),
        }
    }
}
