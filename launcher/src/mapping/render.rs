//! A placement as people and scripts read it.

use efarun_wire::Rank;
use serde_json::{Value, json};

use super::{NodePlace, Placement};

impl Placement {
    /// Returns the map as a table, one line per node.
    pub fn to_text(&self) -> String {
        let rows: Vec<[String; 4]> = self.nodes.iter().map(row).collect();
        let mut widths = TITLES.map(|title| title.chars().count());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text =
            format!("{} on {}\n", count(self.ranks.len(), "rank"), count(self.nodes.len(), "node"));
        for row in std::iter::once(&TITLES.map(str::to_owned)).chain(&rows) {
            let cells: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// Returns the map as JSON. Keys are only ever added.
    pub fn to_json(&self) -> Value {
        let node = |place: &NodePlace| {
            json!({
                "node": place.node.0,
                "host": place.host.name,
                "user": place.host.user,
                "port": place.host.port,
                "origin": place.host.origin,
                "slots": place.slots,
                "slots_from": place.slots_origin.name(),
                "ranks": place.ranks.iter().map(|rank| rank.0).collect::<Vec<_>>(),
            })
        };
        json!({ "world_size": self.ranks.len(), "nodes": self.nodes.iter().map(node).collect::<Vec<_>>() })
    }
}

fn row(place: &NodePlace) -> [String; 4] {
    let slots = match place.slots {
        Some(slots) => {
            format!("{slots} ({})", place.slots_origin.describe(slots, &place.host.origin))
        }
        None => "? (not asked)".to_owned(),
    };
    [place.node.to_string(), place.host.to_string(), slots, ranges(&place.ranks)]
}

/// `0-7`, or `0,2,4-6` where ranks are not consecutive.
fn ranges(ranks: &[Rank]) -> String {
    let consecutive = ranks.chunk_by(|a, b| a.0 + 1 == b.0);
    let range = |run: &[Rank]| match run {
        [first, .., last] => format!("{first}-{last}"),
        [only] => only.to_string(),
        [] => String::new(),
    };
    consecutive.map(range).collect::<Vec<_>>().join(",")
}

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

const TITLES: [&str; 4] = ["node", "host", "slots", "ranks"];
