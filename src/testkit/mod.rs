//! What those test with who implement a trait of ours. Panics say what is wrong, as in any test.

pub mod conformance;
