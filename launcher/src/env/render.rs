//! An environment as `--dry-run` shows it. Secrets are redacted.

use efarun_wire::{NodeId, Rank};
use serde_json::{Value, json};

use super::{JobEnv, NameValue, Origin, Variable, printable_value};

impl JobEnv {
    /// Returns the environment for a person: what all ranks share with the reason for each variable, what differs
    /// by node, and what rank 0 has of its own.
    pub fn to_text(&self) -> String {
        let mut text = "every rank has\n".to_owned();
        text.push_str(&listed(&self.shared));
        for (node, own) in (0..).map(NodeId).zip(&self.node_own) {
            text.push_str(&format!("node {node} adds\n"));
            text.push_str(&listed(&self.overridable(own)));
        }
        text.push_str("rank 0 adds, as does each rank with its own numbers\n");
        for (name, value) in self.per_rank(Rank(0)) {
            text.push_str(&format!("  {}\n", assignment(&name, &value)));
        }
        text
    }

    /// Returns the environment for scripts. Keys are only ever added.
    pub fn to_json(&self) -> Value {
        let variable = |variable: &Variable| {
            json!({
                "name": String::from_utf8_lossy(&variable.name),
                "value": printable_value(&variable.name, &variable.value),
                "from": variable.origin.describe(),
            })
        };
        let variables = |list: &[Variable]| list.iter().map(variable).collect::<Vec<_>>();
        let own = |(node, own): (u32, &Vec<Variable>)| json!({ "node": node, "variables": variables(&self.overridable(own)) });
        let pair = |(name, value): NameValue| {
            (String::from_utf8_lossy(&name).into_owned(), Value::from(printable_value(&name, &value)))
        };
        let rank = |rank: usize| {
            let rank = Rank(u32::try_from(rank).unwrap_or(u32::MAX));
            let variables: serde_json::Map<String, Value> =
                self.per_rank(rank).into_iter().map(pair).collect();
            json!({ "rank": rank.0, "variables": variables })
        };
        json!({
            "shared": variables(&self.shared),
            "nodes": (0..).zip(&self.node_own).map(own).collect::<Vec<_>>(),
            "ranks": (0..self.places.len()).map(rank).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    /// Those of a node's own variables that nothing shared overrides.
    fn overridable(&self, own: &[Variable]) -> Vec<Variable> {
        let is_shared = |variable: &&Variable| self.shared.iter().any(|shared| shared.name == variable.name);
        own.iter().filter(|variable| !is_shared(variable)).cloned().collect()
    }
}

impl Origin {
    /// Returns why ranks have a variable, for a person.
    pub fn describe(self) -> &'static str {
        match self {
            Origin::Head => "passed from here",
            Origin::Export => "-x",
            Origin::Parameter => "--mca",
            Origin::Node => "the node's own",
            Origin::Efarun(reason) => reason,
        }
    }
}

fn listed(variables: &[Variable]) -> String {
    let lines = variables.iter().map(|variable| {
        let reason = variable.origin.describe();
        format!("  {:<50}  # {reason}\n", assignment(&variable.name, &variable.value))
    });
    lines.collect()
}

fn assignment(name: &[u8], value: &[u8]) -> String {
    format!("{}={}", printable_value(b"", name), printable_value(name, value))
}
