//! Pages of lists: `?limit=` asks for so many items, and `Link: <…>; rel="next"` of the answer leads to those behind them.
//!
//! A page begins behind the last item of the one before, named by what orders the list and not by a number, so that what comes and
//! goes meanwhile lets nothing be left out or told twice. Without `limit`, lists answer as a whole, as they always did.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::header::{self, HeaderValue};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tranche_api::limits::PAGE_LEN_MAX;
use tranche_core::diagnostics as say;

use super::Refusal;
use super::input::{InQuery, of_query};

/// How a page of a list is asked for.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// So many items at most, 1 to 1,000; all if left out. If there are more, the header `Link` leads to the next page.
    #[param(required = false, minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// Only what comes behind the page whose `Link` has this. It is no text to be made up.
    #[param(required = false)]
    after: Option<String>,
}

/// A page that is asked for, and of which list.
#[derive(Debug)]
pub(super) struct InPage {
    path: String,
    limit: Option<usize>,
    after: Option<String>,
    limit_max: usize,
    /// What leaves only some of the list, as it stands in the query, with `&` behind it.
    kept: String,
}

impl<S: Send + Sync> FromRequestParts<S> for InPage {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = parts.uri.path().to_owned();
        let InQuery(PageQuery { limit, after }) = InQuery::from_request_parts(parts, state).await?;
        Ok(Self::at(&path, limit, after, PAGE_LEN_MAX))
    }
}

impl InPage {
    /// The page of the list at this path that a query asks for.
    ///
    /// # Errors
    /// It asks for something else, or for the same twice.
    pub(super) fn asked(path: &str, query: &str) -> Result<Self, Refusal> {
        let PageQuery { limit, after } = of_query(query)?;
        Ok(Self::at(path, limit, after, PAGE_LEN_MAX))
    }

    /// A page of the list at this path.
    pub(super) fn at(path: &str, limit: Option<usize>, after: Option<String>, limit_max: usize) -> Self {
        Self { path: path.to_owned(), limit, after, limit_max, kept: String::new() }
    }

    /// The same, of a list that this part of the query leaves some of: the way to the next page asks for the same ones.
    pub(super) fn keeping(self, query: &str) -> Self {
        Self { kept: format!("{query}&"), ..self }
    }

    /// The page of these items. `key` tells each from all others, and is in their order.
    ///
    /// # Errors
    /// A limit that is out of range, and a place that no page of this list has named.
    pub(super) fn of<T, K>(self, mut items: Vec<T>, key: impl Fn(&T) -> K) -> Result<Paged<Vec<T>>, Refusal>
    where
        K: Ord + Serialize + DeserializeOwned,
    {
        let limit = self.limit.unwrap_or(usize::MAX);
        if self.limit.is_some_and(|limit| !(1..=self.limit_max).contains(&limit)) {
            let range = format!("1 to {}", self.limit_max);
            return Err(say::invalid_value("limit", &limit.to_string(), &range).into());
        }
        if let Some(after) = &self.after {
            let place: K = read(after).ok_or_else(|| {
                say::invalid_value("after", "such a text", "what the header 'Link' of the page before has")
            })?;
            // What stood there may be gone by now.
            let exact = items.iter().rposition(|item| key(item) == place).map(|index| index + 1);
            let behind = exact.unwrap_or_else(|| items.partition_point(|item| key(item) <= place));
            items.drain(..behind);
        }
        let is_last = items.len() <= limit;
        items.truncate(limit);
        let last = items.last().filter(|_| !is_last);
        let next = last
            .map(|last| (&self.path, &self.kept, write(&key(last))))
            .map(|(path, kept, last)| format!("<{path}?{kept}limit={limit}&after={last}>; rel=\"next\""));
        Ok(Paged { body: items, next })
    }
}

/// A page, and the way to the next one.
#[derive(Debug)]
pub(super) struct Paged<T> {
    body: T,
    next: Option<String>,
}

impl<T> Paged<T> {
    /// The same page in another form.
    pub(super) fn map<U>(self, form: impl FnOnce(T) -> U) -> Paged<U> {
        Paged { body: form(self.body), next: self.next }
    }
}

impl<T: Serialize> IntoResponse for Paged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        if let Some(next) = self.next.and_then(|next| HeaderValue::try_from(next).ok()) {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

fn write(key: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(key).unwrap_or_default())
}

fn read<K: DeserializeOwned>(text: &str) -> Option<K> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(
        items: &[&str],
        limit: Option<usize>,
        after: Option<String>,
    ) -> Result<(Vec<String>, Option<String>), u16> {
        let asked = InPage::at("/v1/vms", limit, after, PAGE_LEN_MAX);
        let items = items.iter().map(ToString::to_string).collect();
        let paged =
            asked.of(items, Clone::clone).map_err(|refusal| refusal.into_response().status().as_u16())?;
        let after = |next: String| {
            let (_, after) = next.split_once("&after=").expect("a place");
            after.trim_end_matches(">; rel=\"next\"").to_owned()
        };
        Ok((paged.body, paged.next.map(after)))
    }

    #[test]
    fn pages_together_are_the_whole_and_without_a_limit_the_whole_is_one() {
        let all = ["a", "b", "c", "d", "e"];
        assert_eq!(page(&all, None, None).unwrap(), (all.map(str::to_owned).to_vec(), None));
        for limit in 1..=6 {
            let (mut told, mut next) = page(&all, Some(limit), None).unwrap();
            while let Some(after) = next {
                let (more, then) = page(&all, Some(limit), Some(after)).unwrap();
                assert!((1..=limit).contains(&more.len()));
                told.extend(more);
                next = then;
            }
            assert_eq!(told, all, "{limit} at a time");
        }
    }

    #[test]
    fn what_comes_and_goes_between_two_pages_lets_nothing_be_left_out_or_told_twice() {
        let (_, after_b) = page(&["a", "b", "c", "d"], Some(2), None).unwrap();
        assert_eq!(
            page(&["a", "a2", "c", "d"], Some(9), after_b).unwrap().0,
            ["c", "d"],
            "b is gone, a2 is new"
        );
    }

    #[test]
    fn a_limit_out_of_range_and_a_place_that_was_made_up_are_refused() {
        for limit in [0, PAGE_LEN_MAX + 1] {
            assert_eq!(page(&["a"], Some(limit), None), Err(422), "{limit}");
        }
        for after in ["b", "?", "e30"] {
            assert_eq!(page(&["a"], None, Some(after.to_owned())), Err(422), "{after}");
        }
    }
}
