//! Direct calls: of exports whose signature is one that a Rust type here has as well, so that bytes pass in one piece
//! and not as a [`Val`](wasmtime::component::Val) each.
//!
//! Which export can be called so is settled when it is listed. Nothing else of a dynamic call depends on it: arguments
//! and results are read and written by `value` either way.
//!
//! wasmtime calls by types that are known when this is compiled: each pair of parameters and result is compiled by itself,
//! at some 18 KiB of machine code, so the table has what bytes are mostly passed with and stays small. A record that holds
//! bytes has no such type before its component is known, and to make one would take unsafe code.

use super::overlap::Part;
use super::state::State;
use super::value::{Leaf, Lowered, Param, Piece, is_octets};
use std::pin::Pin;
use wasmtime::Store;
use wasmtime::component::types::Type;
use wasmtime::component::{ComponentNamedList, Func, Lift, Lower, Val};

/// How an export of one signature is called.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    alone: for<'a> fn(&'a mut Store<State>, Func, Vec<Lowered>) -> Answer<'a>,
    among: for<'a> fn(Part<'a>, Func, Vec<Lowered>) -> Answer<'a>,
}

type Answer<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<Option<Piece<'static>>>> + Send + 'a>>;

impl Direct {
    /// `args` are lowered for the export's own parameters.
    pub(super) fn call<'a>(&self, store: &'a mut Store<State>, func: Func, args: Vec<Lowered>) -> Answer<'a> {
        (self.alone)(store, func, args)
    }

    /// The same in an instance that the call shares.
    pub(super) fn call_among<'a>(&self, part: Part<'a>, func: Func, args: Vec<Lowered>) -> Answer<'a> {
        (self.among)(part, func, args)
    }
}

macro_rules! table {
    (params: $(($($param:ty),*))*; results: $(($($result:ty)?))*;) => {
        $(impl Params for ($($param,)*) {
            const EACH: &'static [fn(&Type) -> bool] = &[$(<$param as Plain>::fits),*];
            const OCTETS: bool = false $(|| <$param as Plain>::OCTETS)*;
            fn take(args: Vec<Lowered>) -> Option<Self> {
                let mut _args = args.into_iter();
                Some(($(<$param>::take(_args.next()?)?,)*))
            }
        })*
        impl Direct {
            /// The call for that signature, if the table has it.
            pub(super) fn of(params: &[Param], result: Option<&Type>) -> Option<Direct> {
                $(if fits::<($($param,)*)>(params) {
                    return with_result::<($($param,)*)>(result);
                })*
                None
            }
        }
        fn with_result<P: Params>(result: Option<&Type>) -> Option<Direct> {
            $(if <($($result,)?) as Results>::fits(result) {
                return direct::<P, ($($result,)?)>();
            })*
            None
        }
    };
}

table! {
    params: () (Octets) (Text) (Octets, Octets) (Text, Octets) (Octets, Text) (Text, Text);
    results: () (Octets) (Text) (Option<Octets>) (Result<(), Text>) (Result<Octets, Text>) (Result<Text, Text>);
}

/// Text alone is one `Val` and gains nothing, so those pairs are not compiled.
fn direct<P: Params, R: Results>() -> Option<Direct> {
    if const { P::OCTETS || R::OCTETS } {
        Some(Direct { alone: call::<P, R>, among: call_among::<P, R> })
    } else {
        None
    }
}

fn call<P: Params, R: Results>(store: &mut Store<State>, func: Func, args: Vec<Lowered>) -> Answer<'_> {
    Box::pin(async move {
        let func = func.typed::<P, R>(&*store)?;
        let args = P::take(args).ok_or_else(|| wasmtime::Error::msg("the arguments are not of their types"))?;
        Ok(func.call_async(store, args).await?.returned())
    })
}

fn call_among<P: Params, R: Results>(part: Part<'_>, func: Func, args: Vec<Lowered>) -> Answer<'_> {
    Box::pin(async move {
        let func = part.accessor().with(|access| func.typed::<P, R>(access))?;
        let args = P::take(args).ok_or_else(|| wasmtime::Error::msg("the arguments are not of their types"))?;
        Ok(part.call_typed(func, args).await?.returned())
    })
}

type Octets = Vec<u8>;
type Text = String;

/// Bytes or text.
trait Plain: Lift + Send + Sync + Sized + 'static {
    const OCTETS: bool;
    fn fits(ty: &Type) -> bool;
    fn take(lowered: Lowered) -> Option<Self>;
    fn leaf(self) -> Leaf;
}

impl Plain for Octets {
    const OCTETS: bool = true;
    fn fits(ty: &Type) -> bool {
        is_octets(ty)
    }
    fn take(lowered: Lowered) -> Option<Octets> {
        if let Lowered::Octets(octets) = lowered { Some(octets) } else { None }
    }
    fn leaf(self) -> Leaf {
        Leaf::Octets(self)
    }
}

impl Plain for Text {
    const OCTETS: bool = false;
    fn fits(ty: &Type) -> bool {
        matches!(ty, Type::String)
    }
    fn take(lowered: Lowered) -> Option<Text> {
        if let Lowered::Val(Val::String(text)) = lowered { Some(text) } else { None }
    }
    fn leaf(self) -> Leaf {
        Leaf::Text(self)
    }
}

/// All parameters of a function.
trait Params: ComponentNamedList + Lower + Send + Sync + Sized + 'static {
    /// Whether a type is that of the parameter, for each.
    const EACH: &'static [fn(&Type) -> bool];
    const OCTETS: bool;
    fn take(args: Vec<Lowered>) -> Option<Self>;
}

fn fits<P: Params>(params: &[Param]) -> bool {
    params.len() == P::EACH.len() && params.iter().zip(P::EACH).all(|(param, fits)| fits(&param.ty))
}

/// The result of a function, if it has one.
trait Results: ComponentNamedList + Lift + Send + Sync + 'static {
    const OCTETS: bool;
    fn fits(result: Option<&Type>) -> bool;
    fn returned(self) -> Option<Piece<'static>>;
}

impl Results for () {
    const OCTETS: bool = false;
    fn fits(result: Option<&Type>) -> bool {
        result.is_none()
    }
    fn returned(self) -> Option<Piece<'static>> {
        None
    }
}

impl<P: Plain> Results for (P,) {
    const OCTETS: bool = <P as Plain>::OCTETS;
    fn fits(result: Option<&Type>) -> bool {
        result.is_some_and(P::fits)
    }
    fn returned(self) -> Option<Piece<'static>> {
        Some(Piece::Leaf(self.0.leaf()))
    }
}

impl<P: Plain> Results for (Option<P>,) {
    const OCTETS: bool = <P as Plain>::OCTETS;
    fn fits(result: Option<&Type>) -> bool {
        matches!(result, Some(Type::Option(option)) if P::fits(&option.ty()))
    }
    fn returned(self) -> Option<Piece<'static>> {
        Some(self.0.map_or(Piece::NONE, |some| Piece::Some(some.leaf())))
    }
}

impl<P: Payload, E: Payload> Results for (Result<P, E>,) {
    const OCTETS: bool = P::OCTETS || E::OCTETS;
    fn fits(result: Option<&Type>) -> bool {
        matches!(result, Some(Type::Result(result)) if P::fits(result.ok()) && E::fits(result.err()))
    }
    fn returned(self) -> Option<Piece<'static>> {
        Some(match self.0 {
            Ok(payload) => payload.leaf().map_or(Piece::OK, |leaf| Piece::Case(Ok(leaf))),
            Err(payload) => payload.leaf().map_or(Piece::ERR, |leaf| Piece::Case(Err(leaf))),
        })
    }
}

/// What a case of a `result` has: nothing, bytes or text.
trait Payload: Lift + Send + Sync + 'static {
    const OCTETS: bool;
    fn fits(ty: Option<Type>) -> bool;
    fn leaf(self) -> Option<Leaf>;
}

impl Payload for () {
    const OCTETS: bool = false;
    fn fits(ty: Option<Type>) -> bool {
        ty.is_none()
    }
    fn leaf(self) -> Option<Leaf> {
        None
    }
}

impl<P: Plain> Payload for P {
    const OCTETS: bool = <P as Plain>::OCTETS;
    fn fits(ty: Option<Type>) -> bool {
        ty.is_some_and(|ty| <P as Plain>::fits(&ty))
    }
    fn leaf(self) -> Option<Leaf> {
        Some(Plain::leaf(self))
    }
}
