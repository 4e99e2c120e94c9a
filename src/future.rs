//! The future that traits of the embedder's give: a trait with async functions could not be an object.

use std::pin::Pin;

/// A future in a box.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
