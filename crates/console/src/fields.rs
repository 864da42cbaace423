//! What came with a request: the query of a page, and the fields of a form. Both are text that somebody typed.

use std::convert::Infallible;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::ask::Trouble;

/// The field that shows that a form is the visitor's own.
pub(crate) const CSRF: &str = "csrf";
/// The field that tells what there was when a form was shown.
pub(crate) const WAS: &str = "was";

/// Fields, in the order in which they came. A name may come more than once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    /// Those of a query; none if it cannot be read.
    pub(crate) fn of_query(uri: &Uri) -> Self {
        Self(Query::try_from_uri(uri).map(|Query(pairs)| pairs).unwrap_or_default())
    }

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
            Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, &message, "Fill it in and send the form again.")
        })
    }

    /// One of the words that the REST interface knows for something.
    ///
    /// # Errors
    /// It is there and is none of them.
    pub(crate) fn word<T: DeserializeOwned>(&self, name: &str, label: &str) -> Result<Option<T>, Trouble> {
        let read = |text: &str| serde_json::from_value(Value::from(text)).map_err(|_| wrong(label, text));
        self.get(name).map(read).transpose()
    }

    /// Several, with commas or space between them, or each on a line of its own.
    ///
    /// # Errors
    /// One of them is none.
    pub(crate) fn several<T: FromStr>(&self, name: &str, label: &str) -> Result<Vec<T>, Trouble> {
        self.items(name).map(|item| item.parse().map_err(|_| wrong(label, item))).collect()
    }

    /// What stands in a field with commas or space between.
    pub(crate) fn items(&self, name: &str) -> impl Iterator<Item = &str> {
        let text = self.get(name).unwrap_or_default();
        text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty())
    }

    /// Pairs, written `key=value`, with commas or space between them.
    ///
    /// # Errors
    /// One of them is none.
    pub(crate) fn pairs<K: FromStr, V: FromStr>(
        &self,
        name: &str,
        label: &str,
    ) -> Result<Vec<(K, V)>, Trouble> {
        let pair = |item: &str| {
            let (key, value) = item.split_once('=')?;
            Some((key.parse().ok()?, value.parse().ok()?))
        };
        self.items(name).map(|item| pair(item).ok_or_else(|| wrong(label, item))).collect()
    }

    /// What stands in a field of a form that is shown again: what was typed, or else what there is.
    pub(crate) fn or<'a>(&'a self, name: &str, now: &'a str) -> &'a str {
        self.raw(name).unwrap_or(now)
    }

    /// The same for a box.
    pub(crate) fn is_on_or(&self, name: &str, now: bool) -> bool {
        if self.0.is_empty() { now } else { self.is_on(name) }
    }

    /// What there was when the form was shown; what there is now, if it does not say. What somebody did not touch stays as others have
    /// set it meanwhile.
    pub(crate) fn was<T: DeserializeOwned>(&self, now: T) -> T {
        self.get(WAS).and_then(|was| serde_json::from_str(was).ok()).unwrap_or(now)
    }

    /// What a list is read by: the number of its page, from 1.
    pub(crate) fn page(&self) -> usize {
        self.get("page").and_then(|page| page.parse().ok()).filter(|page| *page > 0).unwrap_or(1)
    }
}

/// What was typed, if it is something else than before.
pub(crate) fn changed<T: PartialEq>(typed: Option<T>, was: T) -> Option<T> {
    typed.filter(|typed| *typed != was)
}

/// The same for a limit, which an empty field takes away.
///
/// # Errors
/// It is there and is no number.
pub(crate) fn changed_limit(
    typed: &Fields,
    (name, label): (&str, &str),
    was: Option<u32>,
) -> Result<Option<Option<u32>>, Trouble> {
    let limit = typed.parsed(name, label)?;
    Ok((typed.raw(name).is_some() && limit != was).then_some(limit))
}

pub(crate) fn wrong(label: &str, text: &str) -> Trouble {
    let text: String = text.chars().take(80).collect();
    let message = format!("\u{201c}{text}\u{201d} is no value for the field \u{201c}{label}\u{201d}.");
    Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, &message, "Correct it and send the form again.")
}

/// The query of a page. One that cannot be read is none: a page is shown all the same.
#[derive(Debug)]
pub(crate) struct Asked(pub(crate) Fields);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Fields::of_query(&parts.uri)))
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
