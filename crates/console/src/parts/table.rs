//! Tables: with a caption, headers that say what they are headers of, and rows that stack on narrow screens.

use maud::{Markup, html};

use super::nothing;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    is_number: bool,
}

/// A column of text.
pub(crate) const fn text(name: &'static str) -> Column {
    Column { name, is_number: false }
}

/// A column of figures.
pub(crate) const fn number(name: &'static str) -> Column {
    Column { name, is_number: true }
}

/// A table. The first cell of a row is its header. Where there are no rows, `empty` is said instead.
pub(crate) fn table(caption: &str, columns: &[Column], rows: Vec<Vec<Markup>>, empty: &str) -> Markup {
    if rows.is_empty() {
        return nothing(empty);
    }
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr {
                    @for column in columns {
                        th scope="col" class=[column.is_number.then_some("n")] { (column.name) }
                    }
                } }
                tbody { @for row in &rows { (cells(columns, row)) } }
            }
        }
    }
}

fn cells(columns: &[Column], row: &[Markup]) -> Markup {
    html! {
        tr {
            @for (index, (column, cell)) in columns.iter().zip(row).enumerate() {
                @if index == 0 {
                    th scope="row" { (cell) }
                } @else {
                    td data-label=(column.name) class=[column.is_number.then_some("n")] { (cell) }
                }
            }
        }
    }
}
