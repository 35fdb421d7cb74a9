//! What was run and what came of it.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::json;

/// A line: one operation.
#[derive(Clone, Default)]
pub struct Row {
    pub name: &'static str,
    /// Instructions of its longest way.
    pub instructions: usize,
    pub kills: usize,
    pub stops: usize,
    pub departs: usize,
    /// Cases in which the process took another way than the one that was traced.
    pub other_ways: usize,
    pub failures: Vec<String>,
}

pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "operation",
        "instructions",
        "killed at",
        "stopped at",
        "departed at",
        "other way",
        "failures",
    ]);
    for row in rows {
        let numbers =
            [row.instructions, row.kills, row.stops, row.departs, row.other_ways, row.failures.len()];
        let numbers = numbers.iter().map(|n| Cell::new(n).set_alignment(CellAlignment::Right));
        table.add_row(std::iter::once(Cell::new(row.name)).chain(numbers));
    }
    table.to_string()
}

pub fn json(rows: &[Row], seconds: f64) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "operation": row.name, "instructions": row.instructions, "kills": row.kills, "stops": row.stops,
                "departs": row.departs, "otherWays": row.other_ways, "failures": row.failures,
            })
        })
        .collect();
    json!({ "seconds": seconds, "operations": rows }).to_string()
}
