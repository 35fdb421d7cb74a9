//! What was run and what came of it.

use comfy_table::{Cell, CellAlignment, LineStyle, Table, presets};
use serde_json::json;

use crate::mode::Mode;
use crate::report::Note;

/// A line: one operation, from one place in the order, in one mode.
#[derive(Clone, Default)]
pub struct Row {
    pub name: &'static str,
    pub start: &'static str,
    pub mode: Option<Mode>,
    /// Instructions of its way (of the first's, for a pair).
    pub instructions: usize,
    /// Places on it in front of an access to shared memory or a system call.
    pub places: usize,
    pub planned: usize,
    pub tried: usize,
    /// Cases in which the process took another way than the one that was recorded.
    pub other_ways: usize,
    /// The longest that one of the others had to wait, in milliseconds.
    pub longest_wait: u64,
    pub failures: Vec<String>,
}

impl Row {
    /// A case that went well.
    pub fn note(&mut self, note: &Note) {
        self.tried += 1;
        self.other_ways += usize::from(note.other_way);
        self.longest_wait = self.longest_wait.max(note.longest_wait);
    }

    fn mode(&self) -> &'static str {
        self.mode.map_or("", Mode::name)
    }
}

/// The sums of all rows.
pub fn total(rows: &[Row]) -> Row {
    let mut total = Row { name: "all", start: "-", ..Row::default() };
    for row in rows {
        total.planned += row.planned;
        total.tried += row.tried;
        total.other_ways += row.other_ways;
        total.longest_wait = total.longest_wait.max(row.longest_wait);
        total.failures.extend_from_slice(&row.failures);
    }
    total
}

pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header([
        "operation",
        "start",
        "mode",
        "instructions",
        "places",
        "planned",
        "tried",
        "other way",
        "longest wait, ms",
        "failures",
    ]);
    let total = total(rows);
    for row in rows.iter().chain([&total]) {
        let numbers = [
            row.instructions,
            row.places,
            row.planned,
            row.tried,
            row.other_ways,
            row.longest_wait as usize,
            row.failures.len(),
        ];
        let words = [row.name, row.start, row.mode()].into_iter().map(Cell::new);
        let numbers = numbers.iter().map(|n| Cell::new(n).set_alignment(CellAlignment::Right));
        table.add_row(words.chain(numbers));
    }
    table.to_string()
}

fn object(row: &Row) -> serde_json::Value {
    json!({
        "operation": row.name,
        "start": row.start,
        "mode": row.mode(),
        "instructions": row.instructions,
        "places": row.places,
        "planned": row.planned,
        "tried": row.tried,
        "otherWays": row.other_ways,
        "longestWaitMs": row.longest_wait,
        "failures": row.failures,
    })
}

pub fn json(rows: &[Row], seed: u64, seconds: f64) -> String {
    let all = total(rows);
    json!({
        "seed": seed,
        "seconds": seconds,
        "planned": all.planned,
        "tried": all.tried,
        "failures": all.failures.len(),
        "rows": rows.iter().map(object).collect::<Vec<_>>(),
    })
    .to_string()
}
