//! Typed functions: what the code that `world!` generates is built on. Hidden: only that code may use it.
//!
//! The generated code names wasmtime by this crate's re-export, so that its users need not depend on it. A typed call
//! is a [`Session`] of one call, or shares its instance; both go by `call` like everything else.

use crate::call::{self, CallOptions, Options};
use crate::engine::lease::Prepare;
use crate::engine::state::State;
use crate::engine::trap;
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::function::Function;
use crate::usage::Reply;
use std::marker::PhantomData;
use std::sync::Arc;
use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, HasData, Instance, InstancePre, Lift, Linker, Lower, TypedFunc};

/// A world, as `world!` generates it.
pub trait World: Sized + Send + Sync + 'static {
    /// Where the exports are; found once per function.
    type Indices: Clone + Send + Sync + 'static;
    /// What loading gives: the handle with a method for each export.
    type Handle;
    /// The world's name.
    const NAME: &'static str;
    /// Interfaces and functions that the embedder's imports provide.
    const IMPORTS: &'static [&'static str];
    /// Checks that the component has the world's exports, and finds them.
    fn indices(pre: &InstancePre<State>) -> wasmtime::Result<Self::Indices>;
    /// The exports of one instance.
    fn load(indices: &Self::Indices, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Self>;
    /// The handle.
    fn handle(function: TypedFunction<Self>) -> Self::Handle;
}

/// Finds the world's exports in a component, and how to find them in its instances ahead of a call.
pub(crate) fn indices<W: World>(pre: &InstancePre<State>) -> Result<(Arc<W::Indices>, Prepare)> {
    let found = W::indices(pre).map_err(|e| {
        let text =
            format!("the component does not export what the world {} asks for; build both from the same WIT", W::NAME);
        Error::new(ErrorKind::WrongExport, text).because(e.chain().map(|cause| cause.to_string()))
    })?;
    let found = Arc::new(found);
    let indices = Arc::clone(&found);
    let prepare: Prepare = Box::new(move |store, instance| Ok(Box::new(W::load(&indices, store, instance)?)));
    Ok((found, prepare))
}

/// A world whose imports `U` provides.
pub trait Link<U>: World {
    /// Links them.
    fn link(linker: &mut Linker<State>) -> wasmtime::Result<()>;
}

/// Tells wasmtime that an interface is implemented by the `U` in the store.
pub struct Slot<U>(PhantomData<fn() -> U>);

impl<U: 'static> HasData for Slot<U> {
    type Data<'a> = &'a mut U;
}

/// The embedder's imports of this call. Every host function comes by here, so it counts.
///
/// # Errors
/// Where there is no call yet, as the guest was started ahead of one.
pub fn slot<U: 'static>(state: &mut State) -> wasmtime::Result<&mut U> {
    state.count_host_call();
    state.in_call()?;
    let imports = state.imports.as_mut().and_then(|imports| imports.downcast_mut());
    Ok(imports.expect("a function that links U has a U for each call: both are set by the builder"))
}

/// A loaded function with the world it was loaded as.
pub struct TypedFunction<W: World> {
    function: Function,
    indices: Arc<W::Indices>,
}

impl<W: World> Clone for TypedFunction<W> {
    fn clone(&self) -> Self {
        TypedFunction { function: self.function.clone(), indices: Arc::clone(&self.indices) }
    }
}

impl<W: World> TypedFunction<W> {
    pub(crate) fn new(function: Function, indices: Arc<W::Indices>) -> TypedFunction<W> {
        TypedFunction { function, indices }
    }

    /// The function behind the handle.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// The handle's options.
    pub fn options(&self) -> &Options {
        self.function.options()
    }

    /// The same handle with other options.
    pub fn with_options(&self, options: Options) -> Self {
        TypedFunction { function: self.function.with_options(options), indices: Arc::clone(&self.indices) }
    }

    /// Whether calls of an `async func` may run in an instance where others do.
    pub fn overlaps(&self) -> bool {
        call::is_shared(self.function.inner(), self.function.options())
    }

    /// One call of an `async func` in an instance where others may run.
    pub async fn among<P, R>(
        &self,
        export: &'static str,
        input_bytes: u64,
        args: P,
        find: fn(&W) -> TypedFunc<P, R>,
        size: fn(&R) -> u64,
    ) -> Result<Reply<R>>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let inner = self.function.inner();
        call::run_among(inner, self.function.options(), async |place| {
            let limit = inner.limits().input;
            if input_bytes > limit {
                return Err(too_much_input(export, limit).into());
            }
            place.traffic(input_bytes, 0);
            let ended = place.run(move |part| {
                Box::pin(async move {
                    let lost = || Error::new(ErrorKind::Internal, "its exports are lost; please report this");
                    let value = part.call_typed(part.world(find).ok_or_else(lost)?, args).await?;
                    let bytes = size(&value);
                    if bytes > part.limits().output {
                        return Err(trap::output_too_large(part.limits()).into());
                    }
                    Ok((value, bytes))
                })
            });
            let (value, bytes) = ended.await?;
            place.traffic(0, bytes);
            Ok(value)
        })
        .await
    }

    /// Several calls in one instance, a fresh one unless `reuse` says otherwise; together they are one call, with one set of
    /// limits and one receipt.
    pub async fn session<R>(&self, body: impl AsyncFnOnce(&mut Session<'_, W>) -> Result<R>) -> Result<Reply<R>> {
        let inner = self.function.inner();
        call::run(inner, self.function.options(), None, async |lease| {
            let instance = lease.instance()?;
            let known = lease.world().take();
            let found;
            let world = match known.as_ref().and_then(|world| world.downcast_ref()) {
                Some(world) => world,
                None => {
                    found = W::load(&self.indices, &mut lease.store, &instance)?;
                    &found
                }
            };
            let mut session = Session { world, store: &mut lease.store, function: &self.function };
            let answer = body(&mut session).await?;
            // For the next call, if the instance is kept.
            *lease.world() = known;
            Ok(answer)
        })
        .await
    }
}

/// One instance, for as long as a session lasts.
pub struct Session<'a, W> {
    world: &'a W,
    store: &'a mut Store<State>,
    function: &'a Function,
}

impl<W: World> Session<'_, W> {
    /// Counts and checks the arguments of one call.
    pub fn begin(&mut self, export: &'static str, input_bytes: u64) -> Result<()> {
        let limit = self.function.inner().limits().input;
        let total = self.store.data().bytes_in.saturating_add(input_bytes);
        if total > limit {
            return Err(too_much_input(export, limit));
        }
        self.store.data_mut().bytes_in = total;
        Ok(())
    }

    /// What a call is made with.
    pub fn parts(&mut self) -> (&W, &mut Store<State>) {
        self.store.data_mut().begin_part();
        (self.world, self.store)
    }

    /// Counts and checks the result of what was done with its [`parts`](Session::parts).
    pub fn end<R>(&mut self, result: wasmtime::Result<R>, size: impl FnOnce(&R) -> u64) -> Result<R> {
        let limits = self.function.inner().limits();
        let value = result.map_err(|error| trap::explain(&error, self.store.data(), limits))?;
        let state = self.store.data_mut();
        state.end_part();
        state.bytes_out = state.bytes_out.saturating_add(size(&value));
        if state.bytes_out > limits.output { Err(trap::output_too_large(limits)) } else { Ok(value) }
    }
}

fn too_much_input(export: &str, limit: u64) -> Error {
    Error::new(
        ErrorKind::LimitExceeded(Limit::Input),
        format!(
            "the arguments of \"{export}\" bring the call's input to more than {limit} bytes; pass less, or raise `Limits::input`"
        ),
    )
}

/// The error for a mistake of the embedder's that only the generated code can see.
pub fn misuse(text: &str) -> Error {
    Error::new(ErrorKind::Misuse, text)
}

/// Bytes that a value has when it is passed: what input and output limits count, as `engine::value::bytes` does.
pub trait Size {
    /// The size of every value of the type, if all have the same.
    const FIXED: Option<u64>;
    /// The size of this value.
    fn size(&self) -> u64;
}

macro_rules! fixed {
    ($($ty:ty),*) => { $(impl Size for $ty {
        const FIXED: Option<u64> = Some(size_of::<$ty>() as u64);
        fn size(&self) -> u64 { size_of::<$ty>() as u64 }
    })* };
}
fixed!((), bool, u8, u16, u32, u64, i8, i16, i32, i64, f32, f64, char);

impl Size for str {
    const FIXED: Option<u64> = None;
    fn size(&self) -> u64 {
        self.len() as u64
    }
}

impl<T: Size> Size for [T] {
    const FIXED: Option<u64> = None;
    fn size(&self) -> u64 {
        match T::FIXED {
            Some(each) => (self.len() as u64).saturating_mul(each.max(1)),
            None => self.iter().map(|value| value.size().max(1)).fold(0, u64::saturating_add),
        }
    }
}

macro_rules! forward {
    ($($(#[$generic:ident])? $ty:ty),*) => { $(impl<$($generic: Size + ?Sized)?> Size for $ty {
        const FIXED: Option<u64> = None;
        fn size(&self) -> u64 { (**self).size() }
    })* };
}
forward!(String, #[T] &T, #[T] Box<T>);

impl<T: Size> Size for Vec<T> {
    const FIXED: Option<u64> = None;
    fn size(&self) -> u64 {
        self.as_slice().size()
    }
}

impl<T: Size> Size for Option<T> {
    const FIXED: Option<u64> = None;
    fn size(&self) -> u64 {
        self.as_ref().map_or(1, |value| 1 + value.size())
    }
}

impl<T: Size, E: Size> Size for std::result::Result<T, E> {
    const FIXED: Option<u64> = None;
    fn size(&self) -> u64 {
        1 + self.as_ref().map_or_else(Size::size, Size::size)
    }
}

macro_rules! tuples {
    ($(($($name:ident)+))*) => { $(impl<$($name: Size),+> Size for ($($name,)+) {
        const FIXED: Option<u64> = None;
        #[allow(non_snake_case)]
        fn size(&self) -> u64 { let ($($name,)+) = self; [$($name.size()),+].into_iter().fold(0, u64::saturating_add) }
    })* };
}
tuples!((A)(A B)(A B C)(A B C D)(A B C D E)(A B C D E F)(A B C D E F G)(A B C D E F G H)
    (A B C D E F G H I)(A B C D E F G H I J)(A B C D E F G H I J K)(A B C D E F G H I J K L));
