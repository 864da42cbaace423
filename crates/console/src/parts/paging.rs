//! Long lists, a page at a time, with plain links between pages.

use maud::{Markup, html};

use crate::fields::Fields;
use crate::links::encode;

/// Rows on a page.
pub(crate) const ROWS_PER_PAGE: usize = 100;

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Paged<T> {
    /// What is on it.
    pub(crate) rows: Vec<T>,
    total: usize,
    page: usize,
    per_page: usize,
}

impl<T> Paged<T> {
    /// The page that is asked for; the last one where there are fewer.
    pub(crate) fn of(all: Vec<T>, asked: &Fields, per_page: usize) -> Self {
        let total = all.len();
        let page = asked.page().min(total.div_ceil(per_page).max(1));
        let rows = all.into_iter().skip((page - 1) * per_page).take(per_page).collect();
        Self { rows, total, page, per_page }
    }

    /// The links to the other pages, with the rest of the query as it is.
    pub(crate) fn links(&self, path: &str, asked: &Fields) -> Markup {
        let pages = self.total.div_ceil(self.per_page);
        if pages < 2 {
            return html! {};
        }
        let query: String = asked
            .0
            .iter()
            .filter(|(name, value)| name != "page" && !value.is_empty())
            .map(|(name, value)| format!("{}={}&", encode(name), encode(value)))
            .collect();
        let to = |page: usize| format!("{path}?{query}page={page}");
        let first = (self.page - 1) * self.per_page + 1;
        html! {
            nav class="paging" aria-label="Pages" {
                @if self.page > 1 { a href=(to(self.page - 1)) rel="prev" { "Previous" } }
                span { (first) "\u{2013}" (first + self.rows.len() - 1) " of " (self.total) }
                @if self.page < pages { a href=(to(self.page + 1)) rel="next" { "Next" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(page: &str) -> Fields {
        Fields(vec![("state".to_owned(), "a&b".to_owned()), ("page".to_owned(), page.to_owned())])
    }

    #[test]
    fn a_list_is_cut_into_pages_and_a_page_beyond_the_last_is_the_last() {
        for (page, first, last) in
            [("", 1, 100), ("0", 1, 100), ("2", 101, 200), ("3", 201, 250), ("99", 201, 250)]
        {
            let paged = Paged::of((1..=250).collect(), &asked(page), 100);
            assert_eq!((paged.rows.first(), paged.rows.last()), (Some(&first), Some(&last)), "page {page:?}");
        }
        assert!(Paged::of(Vec::<u8>::new(), &asked("3"), 100).rows.is_empty());
    }

    #[test]
    fn links_keep_the_rest_of_the_query() {
        let asked = asked("2");
        let links = Paged::of((1..=250).collect(), &asked, 100).links("/vms", &asked).into_string();
        assert!(links.contains("/vms?state=a%26b&amp;page=1") && links.contains("page=3"), "{links}");
        assert!(links.contains("101\u{2013}200 of 250"), "{links}");
    }
}
