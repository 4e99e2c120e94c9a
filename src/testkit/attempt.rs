//! [`Attempt`]: one guest of the corpus in a host, to be run beside whatever else the host does.

use super::attack::{Shot, Terms};
use super::case::{Attack, Case, Figures};
use super::judge::{Ended, Fault, judge};
use super::promise::Promise;
use crate::{ErrorKind, Host, Limits, Result, Trust, Usage};
use std::sync::Arc;

/// A hostile guest in a host, to be run any number of times. Made by [`Case::load`].
pub struct Attempt {
    shot: std::result::Result<Shot, Fault>,
    terms: Terms,
    theirs: Figures,
}

/// What became of a hostile guest, and whether that is what must become of it.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Attempted {
    /// How it failed; `None` where it did no harm, where it could not be made or had to be given up, and where what was
    /// wrong is no error of a call's, such as a seat too many: see `broken`.
    pub kind: Option<ErrorKind>,
    /// The receipt of its call.
    pub usage: Usage,
    /// What was promised and not held, and how. A [`Promise::Punctual`] can also be broken by a machine that has much
    /// else to do.
    pub broken: Vec<(Promise, String)>,
}

impl Case {
    /// Loads the guest into that host as a stranger's component, or as a script, with `limits` for what it attacks and room for all
    /// else, as [`prove`](super::prove()) does.
    ///
    /// Unlike `prove`, this does not wait until it has the host to itself. Guests that attack [`Promise::Concurrency`]
    /// want all its seats, and those that attack [`Promise::Busy`] want a core: beside others, they may end otherwise.
    /// Those that attack [`Promise::Fuel`] want a limit on fuel, and those that attack [`Promise::Sources`] a slot that is
    /// free while their source compiles.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> isopod::Result<()> {
    /// use isopod::testkit::{Promise, corpus};
    /// use isopod::{Host, Limits};
    ///
    /// let host = Host::new()?;
    /// # if false {
    /// for case in corpus().iter().filter(|case| case.promise() == Promise::Memory) {
    ///     let attempt = case.load(&host, &Limits::default()).await?;
    ///     assert_eq!(attempt.run().await.broken, []);
    /// }
    /// # }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for limits that contradict each other. What keeps a guest from being loaded is told by
    /// [`Attempt::run`].
    pub async fn load(&self, host: &Host, limits: &Limits) -> Result<Attempt> {
        let theirs = Figures::of(limits)?;
        let (with, with_script) = (Arc::new(|_: &Case, builder| builder), Arc::new(|_: &Case, builder| builder));
        let terms = Terms { host: host.clone(), load: Trust::Untrusted.into(), reuse: None, with, with_script };
        let shot = Shot::load(&terms, self.clone(), &theirs).await;
        Ok(Attempt { shot, terms, theirs })
    }
}

impl Attempt {
    /// Attacks once: calls the guest, or loads it again where loading is the attack. A guest that nothing stops is
    /// given up some seconds after its time.
    pub async fn run(&self) -> Attempted {
        let again;
        let shot = match &self.shot {
            Ok(shot) if matches!(shot.case.attack, Attack::Load | Attack::Describe) => {
                again = Shot::load(&self.terms, shot.case.clone(), &self.theirs).await;
                again.as_ref()
            }
            shot => shot.as_ref(),
        };
        let shot = match shot {
            Ok(shot) => shot,
            Err(fault) => return Attempted { kind: None, usage: Usage::default(), broken: vec![told(fault)] },
        };
        let outcome = shot.fire(&self.terms.host).await;
        let broken = judge(&shot.case, &shot.figures, &outcome).iter().map(told).collect();
        let kind = match outcome.end {
            Ended::Failed { kind, .. } => Some(kind),
            _ => None,
        };
        Attempted { kind, usage: outcome.usage, broken }
    }
}

fn told(fault: &Fault) -> (Promise, String) {
    (fault.promise, fault.text.clone())
}

#[cfg(all(test, feature = "compiler"))]
mod tests {
    use super::*;
    use crate::testkit::corpus;

    /// On a runtime that runs calls on the thread of the test.
    #[tokio::test]
    async fn texts_that_are_not_made_fit_to_show_are_found() {
        let host = Host::new().unwrap();
        let texts = |case: &Case| case.promise() == Promise::Text && case.name().starts_with("names");
        let cases: Vec<Case> = corpus().into_iter().filter(texts).collect();
        assert_eq!(cases.len(), 2);
        for case in cases {
            let attempt = case.load(&host, &Limits::default()).await.unwrap();
            assert_eq!(attempt.run().await.broken, []);
            crate::text::tests::RAW.set(true);
            let attempted = attempt.run().await;
            crate::text::tests::RAW.set(false);
            assert!(!attempted.broken.is_empty(), "{case:?}");
            assert!(attempted.broken.iter().all(|(promise, _)| *promise == Promise::Text), "{attempted:?}");
        }
    }
}
