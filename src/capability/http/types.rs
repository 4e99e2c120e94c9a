//! The types of `wasi:http`, which carry no power: requests and responses as values.
//!
//! A request's method, authority and path are its texts that wasmtime puts no bound to, or a wide one: a guest could
//! keep as many bytes in the host as it may pass at once, in each of its requests. Their setters are replaced.

use crate::capability::linked_name;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView, p2, p3};

/// Bytes of a request's method. The longest one registered has 17.
const MAX_METHOD: usize = 64;
/// Bytes of a request's authority. The longest name that DNS has takes 253, its port six.
const MAX_AUTHORITY: usize = 1024;
/// Bytes of a request's path and query. Servers refuse what is longer than half of this.
const MAX_PATH: usize = 16 * 1024;

pub(in crate::capability) fn link<T: WasiHttpView>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    p2::bindings::http::types::add_to_linker::<T, WasiHttp>(linker, &Default::default(), T::http)?;
    if asynchronous {
        p3::bindings::http::types::add_to_linker::<T, WasiHttp>(linker, T::http)?;
    }
    linker.allow_shadowing(true);
    bound_texts(linker, asynchronous)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Replaces a setter by one that refuses what is longer than `max`.
macro_rules! bound {
    ($interface:ident, $name:literal, $request:ty, $text:ty, $host:ident :: $set:ident, $max:expr) => {
        $interface.func_wrap($name, |mut store: StoreContextMut<'_, T>, (request, text): ($request, $text)| {
            let mut view = store.data_mut().http();
            if Length::of(&text) > $max {
                return Ok((Err(()),));
            }
            Ok(($host::$set(&mut view, request, text)?,))
        })?
    };
}

fn bound_texts<T: WasiHttpView>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    {
        use p2::bindings::http::types::{HostOutgoingRequest, Method};
        type Request = Resource<p2::types::HostOutgoingRequest>;
        let mut types = linker.instance(&linked_name("wasi:http/types@0.2.0"))?;
        bound!(
            types,
            "[method]outgoing-request.set-method",
            Request,
            Method,
            HostOutgoingRequest::set_method,
            MAX_METHOD
        );
        bound!(
            types,
            "[method]outgoing-request.set-authority",
            Request,
            Option<String>,
            HostOutgoingRequest::set_authority,
            MAX_AUTHORITY
        );
        bound!(
            types,
            "[method]outgoing-request.set-path-with-query",
            Request,
            Option<String>,
            HostOutgoingRequest::set_path_with_query,
            MAX_PATH
        );
    }
    if asynchronous {
        use p3::bindings::http::types::{HostRequest, Method};
        type Request = Resource<p3::Request>;
        let mut types = linker.instance(&linked_name("wasi:http/types@0.3.0"))?;
        bound!(types, "[method]request.set-method", Request, Method, HostRequest::set_method, MAX_METHOD);
        bound!(
            types,
            "[method]request.set-authority",
            Request,
            Option<String>,
            HostRequest::set_authority,
            MAX_AUTHORITY
        );
        bound!(
            types,
            "[method]request.set-path-with-query",
            Request,
            Option<String>,
            HostRequest::set_path_with_query,
            MAX_PATH
        );
    }
    Ok(())
}

/// Bytes of what a setter is given.
trait Length {
    fn of(&self) -> usize;
}

impl Length for Option<String> {
    fn of(&self) -> usize {
        self.as_ref().map_or(0, String::len)
    }
}

impl Length for p2::bindings::http::types::Method {
    fn of(&self) -> usize {
        if let Self::Other(name) = self { name.len() } else { 0 }
    }
}

impl Length for p3::bindings::http::types::Method {
    fn of(&self) -> usize {
        if let Self::Other(name) = self { name.len() } else { 0 }
    }
}
