//! An event handler: answers with the data in upper case, or with the error that the data asks for.
#![no_main]

use exports::isopod::function::handler::{Error, Event, Guest, Reply};

wit_bindgen::generate!({ path: "../wit/function.wit", world: "function" });

struct Handler;

impl Guest for Handler {
    fn handle(event: Event) -> Result<Reply, Error> {
        match event.data.as_deref() {
            Some(b"retry") => Err(Error::Retry(format!("{} asked for another try", event.id))),
            Some(b"permanent") => Err(Error::Permanent(format!("{} asked to be given up", event.id))),
            Some(b"trap") => panic!("{} asked for a trap", event.id),
            data => Ok(Reply {
                data: data.map(<[u8]>::to_ascii_uppercase),
                // Only what came in can be said of what goes out.
                datacontenttype: event.datacontenttype,
            }),
        }
    }
}

export!(Handler);
