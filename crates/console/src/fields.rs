//! What came with a request: the query of a page, and the fields of a form. Both are text that somebody typed.

use std::convert::Infallible;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::ask::Trouble;

/// The field that shows that a form is the visitor's own.
pub(crate) const CSRF: &str = "csrf";

/// Fields, in the order in which they came. A name may come more than once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    /// A field as it came.
    pub(crate) fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A field without the space around it; none if nothing is left.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.raw(name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// The same as text of one's own.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// Whether a box is ticked.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Each value of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.trim())
    }

    /// A field that has to be something: a number, a name. None if it was left empty.
    ///
    /// # Errors
    /// It is there and is none.
    pub(crate) fn parsed<T: FromStr>(&self, name: &str, label: &str) -> Result<Option<T>, Trouble> {
        let parse = |text: &str| text.parse().map_err(|_| wrong(label, text));
        self.get(name).map(parse).transpose()
    }

    /// The same for a field that may not be left empty.
    ///
    /// # Errors
    /// It is not there, or is none.
    pub(crate) fn needed<T: FromStr>(&self, name: &str, label: &str) -> Result<T, Trouble> {
        self.parsed(name, label)?.ok_or_else(|| {
            let message = format!("The field \u{201c}{label}\u{201d} is empty.");
            Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, &message, "Go back and fill it in.")
        })
    }

    /// What a list is read by: the number of its page, from 1.
    pub(crate) fn page(&self) -> usize {
        self.get("page").and_then(|page| page.parse().ok()).filter(|page| *page > 0).unwrap_or(1)
    }
}

fn wrong(label: &str, text: &str) -> Trouble {
    let text: String = text.chars().take(80).collect();
    let message = format!("\u{201c}{text}\u{201d} is no value for the field \u{201c}{label}\u{201d}.");
    Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, &message, "Go back and correct it.")
}

/// The query of a page. One that cannot be read is none: a page is shown all the same.
#[derive(Debug)]
pub(crate) struct Asked(pub(crate) Fields);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        Ok(Self(Fields(pairs.map(|Query(pairs)| pairs).unwrap_or_default())))
    }
}

/// The fields of a form, which the guard has read and checked.
#[derive(Debug)]
pub(crate) struct Posted(pub(crate) Fields);

impl<S: Send + Sync> FromRequestParts<S> for Posted {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Fields>().cloned().unwrap_or_default()))
    }
}

/// Names in a path.
#[derive(Debug)]
pub(crate) struct Named<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Trouble> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(_) => Err(Trouble::nothing_at(parts.uri.path())),
        }
    }
}
