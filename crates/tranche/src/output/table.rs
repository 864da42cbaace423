//! Tables, and sheets of one thing's fields.

use std::io::{self, IsTerminal};

use comfy_table::{ContentArrangement, Table, presets};

use super::text::plain;

/// In fewer columns a table that is made to fit is a heap of letters; there the terminal breaks its lines.
const WIDTH_MIN: u16 = 72;

/// Rows below a header; a sentence where there are none. Fits the terminal; elsewhere nothing is cut or wrapped.
pub(super) fn rows(header: &[&str], rows: Vec<Vec<String>>, none: &str) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
    }
    let mut table = empty();
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { plain(cell) }));
    }
    finish(table)
}

/// Fields of one thing; empty ones are left out.
pub(super) fn sheet(fields: &[(&str, String)]) -> String {
    let mut table = empty();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([(*name).to_owned(), plain(value)]);
    }
    finish(table)
}

fn empty() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let fits = io::stdout().is_terminal() && table.width().is_some_and(|width| width >= WIDTH_MIN);
    table.set_content_arrangement(if fits {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    table
}

fn finish(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    lines.concat()
}
