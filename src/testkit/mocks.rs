//! [`Mock`]: what a component's own imports answer in a test, and what they were asked.

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// What an import is to give. Made by [`Host::on`](super::Host::on).
///
/// Of several that fit a call, the first that was made and is not used up answers.
#[must_use = "it answers nothing until it is told what, by `gives` or `answers`"]
pub struct Mock<'a> {
    mocks: &'a Mocks,
    rule: Rule,
}

impl Mock<'_> {
    /// Only where it is called with these arguments: a tuple, or whatever else serde writes as a list.
    ///
    /// # Panics
    /// If serde cannot write them as JSON.
    pub fn with(mut self, arguments: impl Serialize) -> Self {
        self.rule.arguments = Some(json(&arguments));
        self
    }

    /// Exactly so often: [`verify`](super::Host::verify) panics if it was less, and one more is a call that nothing answers.
    /// Without it: any number of times, also none.
    pub fn times(mut self, times: u32) -> Self {
        self.rule.times = Some(times);
        self
    }

    /// Gives this value; a WIT `result` is serde's own `Result`, and a function without a result gives `()`.
    ///
    /// # Panics
    /// If serde cannot write it as JSON.
    pub fn gives(self, value: impl Serialize) {
        let value = json(&value);
        self.answers(move |_| value.clone());
    }

    /// Gives what `answer` makes of the arguments, which are a list.
    pub fn answers(mut self, answer: impl Fn(&Value) -> Value + Send + Sync + 'static) {
        self.rule.answer = Some(Arc::new(answer));
        self.mocks.0.lock().rules.push(self.rule);
    }
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|e| panic!("this cannot be written as JSON: {e}"))
}

/// A call of an import, as it was asked.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The import, as `ns:pkg/interface@1.0.0#function`.
    pub import: String,
    /// The arguments, as a list.
    pub arguments: Value,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.arguments.as_array().into_iter().flatten();
        write!(f, "{}({})", self.import, list.map(Value::to_string).collect::<Vec<_>>().join(", "))
    }
}

type Answer = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

struct Rule {
    import: String,
    arguments: Option<Value>,
    times: Option<u32>,
    used: u32,
    answer: Option<Answer>,
}

impl Rule {
    fn fits(&self, import: &str, arguments: &Value) -> bool {
        let named = self.import == import || self.import == unversioned(import);
        named && self.arguments.as_ref().is_none_or(|expected| expected == arguments)
    }
}

/// The import's name without a version.
fn unversioned(import: &str) -> String {
    match (import.split_once('@'), import.split_once('#')) {
        (Some((interface, _)), Some((_, function))) => format!("{interface}#{function}"),
        _ => import.to_owned(),
    }
}

/// All that the imports of a test's functions answer, and were asked.
#[derive(Default)]
pub(super) struct Mocks(Mutex<State>);

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    asked: Vec<Asked>,
    unexpected: Vec<Asked>,
}

impl Mocks {
    pub(super) fn on(&self, import: &str) -> Mock<'_> {
        let rule = Rule { import: import.to_owned(), arguments: None, times: None, used: 0, answer: None };
        Mock { mocks: self, rule }
    }

    /// What the import answers.
    ///
    /// # Panics
    /// If nothing was said of it: that is how a host function fails a call.
    pub(super) fn answer(&self, import: &str, arguments: Value) -> Value {
        let answer = {
            let State { rules, asked, unexpected } = &mut *self.0.lock();
            let call = Asked { import: import.to_owned(), arguments: arguments.clone() };
            asked.push(call.clone());
            let spent = |rule: &Rule| rule.times.is_some_and(|times| rule.used >= times);
            let found = rules.iter_mut().find(|rule| rule.fits(import, &arguments) && !spent(rule));
            match found {
                Some(rule) => {
                    rule.used += 1;
                    rule.answer.clone()
                }
                None => {
                    unexpected.push(call);
                    None
                }
            }
        };
        match answer {
            Some(answer) => answer(&arguments),
            None => panic!(
                "the test expects no call {}; say what it gives by `.on(\"{}\")`",
                Asked { import: import.to_owned(), arguments },
                unversioned(import)
            ),
        }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.0.lock().asked.clone()
    }

    /// What was not as the test said, in words.
    pub(super) fn unmet(&self) -> Vec<String> {
        let state = self.0.lock();
        let unexpected = state.unexpected.iter().map(|call| format!("the call {call} was not expected"));
        let missed = state.rules.iter().filter_map(|rule| {
            let times = rule.times.filter(|times| rule.used < *times)?;
            let with = rule.arguments.as_ref().map(|arguments| format!(" with {arguments}")).unwrap_or_default();
            Some(format!("{}{with} was called {} of {times} times", rule.import, rule.used))
        });
        unexpected.chain(missed).collect()
    }
}
