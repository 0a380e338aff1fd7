//! What libfabric's EFA provider is told, and what it must not be told: goes by the table of [`super::variables`].
//!
//! The provider is chosen only where every node has an EFA device and the user did not choose. Some variables abort
//! the process that has them; with EFA in use they are refused before any rank starts.

use super::variables::{FORK_SAFE, HUGE_PAGE, KNOWN, PROVIDER, Rule, SHM_TRANSFER, Situation, Value, number};
use super::{EnvError, Inputs, Origin, Variables, printable_value};

/// Adds the variables that EFA needs, where EFA is used.
pub(super) fn add(inputs: &Inputs<'_>, variables: &mut Variables) -> Result<(), EnvError> {
    set(inputs, variables, Situation::EfaEverywhere);
    if is_used(variables) {
        refuse_fatal(inputs, variables)?;
        set(inputs, variables, Situation::OldKernel);
        note_doubtful(inputs, variables);
    }
    set(inputs, variables, Situation::SomeGpu);
    Ok(())
}

/// Says whether ranks are to use EFA.
fn is_used(variables: &Variables) -> bool {
    variables.value(PROVIDER).is_some_and(names_efa)
}

/// Says whether a value of FI_PROVIDER names EFA. `^tcp` excludes, and so names nothing.
pub(super) fn names_efa(providers: &[u8]) -> bool {
    providers.split(|byte| matches!(byte, b',' | b';')).any(|name| name == b"efa")
}

/// Sets what belongs to a situation, if the job is in it.
fn set(inputs: &Inputs<'_>, variables: &mut Variables, situation: Situation) {
    if !holds(situation, inputs) {
        return;
    }
    for (name, rule) in rules() {
        let Rule::Sets { value, when } = rule else { continue };
        if when != situation || variables.value(name).is_some() {
            continue;
        }
        if name == FORK_SAFE && variables.value(HUGE_PAGE).is_some_and(|value| Value::On.matches(value)) {
            variables.notes.push(format!(
                "a node's kernel is older than 5.13, where a rank that forks needs {FORK_SAFE}=1; with {HUGE_PAGE}=1 it cannot be had"
            ));
            continue;
        }
        variables.set_by_default(name, value, when.reason());
    }
}

fn holds(situation: Situation, inputs: &Inputs<'_>) -> bool {
    let facts = inputs.facts;
    match situation {
        Situation::EfaEverywhere => {
            !facts.is_empty() && facts.iter().all(|facts| !facts.efa_devices.is_empty())
        }
        Situation::OldKernel => facts.iter().any(|facts| is_older_than_5_13(&facts.kernel)),
        Situation::SomeGpu => facts.iter().any(|facts| !facts.gpus.is_empty()),
    }
}

fn refuse_fatal(inputs: &Inputs<'_>, variables: &Variables) -> Result<(), EnvError> {
    for (name, rule) in rules() {
        if let Rule::Refuses { value, why, remedy } = rule
            && has(inputs, variables, name, value)
        {
            let origin = variables.by_name.get(name.as_bytes()).map(|variable| variable.origin);
            let origin = if origin == Some(Origin::Export) { "by -x" } else { "in the environment here" };
            return Err(EnvError::AbortsEfa { variable: name.to_owned(), origin, why, remedy });
        }
    }
    Ok(())
}

fn note_doubtful(inputs: &Inputs<'_>, variables: &mut Variables) {
    for (name, rule) in rules() {
        if let Rule::Notes { value, text } = rule
            && has(inputs, variables, name, value)
        {
            let shown = variables.value(name).map(|value| printable_value(name.as_bytes(), value));
            let shown = shown.map_or_else(String::new, |value| format!("={value}"));
            variables.notes.push(format!("{name}{shown}: {text}"));
        }
    }
}

/// Says whether a variable has a value like this.
fn has(inputs: &Inputs<'_>, variables: &Variables, name: &str, like: Value) -> bool {
    let value = variables.value(name);
    match like {
        Value::OnWith(other) => {
            let is_on = |value: &[u8]| Value::On.matches(value);
            value.is_some_and(is_on) && variables.value(other).is_some_and(is_on)
        }
        Value::DeviceMissing => value.is_some_and(|value| is_missing_somewhere(inputs, value)),
        Value::FewerThanLocalRanks => {
            let is_off = variables.value(SHM_TRANSFER).is_some_and(|value| Value::Off.matches(value));
            let limit = value.and_then(number).unwrap_or(SHM_AV_SIZE);
            let most = inputs.placement.nodes.iter().map(|node| node.ranks.len()).max().unwrap_or(0);
            !is_off && i64::try_from(most).is_ok_and(|most| most > limit)
        }
        _ => value.is_some_and(|value| like.matches(value)),
    }
}

/// Says whether some node that has EFA devices lacks one of these. Of a node without any, other notes speak.
fn is_missing_somewhere(inputs: &Inputs<'_>, devices: &[u8]) -> bool {
    let is_listed = |facts: &efarun_wire::facts::NodeFacts, device: &[u8]| {
        facts.efa_devices.iter().any(|listed| listed.as_bytes() == device)
    };
    let lacks = |facts: &efarun_wire::facts::NodeFacts| {
        let mut named = devices.split(|byte| *byte == b',').filter(|device| !device.is_empty());
        named.any(|device| !is_listed(facts, device))
    };
    inputs.facts.iter().filter(|facts| !facts.efa_devices.is_empty()).any(lacks)
}

/// Every rule, with the variable that it is for, in the table's order.
fn rules() -> impl Iterator<Item = (&'static str, Rule)> {
    KNOWN
        .iter()
        .flat_map(|known| known.names.iter().flat_map(|name| known.rules.iter().map(|rule| (*name, *rule))))
}

/// An unreadable release counts as new: the fork-safe mode is not free.
fn is_older_than_5_13(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) < (5, 13),
        _ => false,
    }
}

/// FI_EFA_SHM_AV_SIZE where it is not set.
const SHM_AV_SIZE: i64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert!(is_older_than_5_13("5.10.227-219.884.amzn2.x86_64"));
        assert!(is_older_than_5_13("4.19.0"));
        assert!(!is_older_than_5_13("5.13.0-rc1"));
        assert!(!is_older_than_5_13("6.8.0-1017-aws"));
        assert!(!is_older_than_5_13("unknown"));
    }

    #[test]
    fn what_a_missing_size_stands_for_is_the_tables_default() {
        let row = KNOWN.iter().find(|known| known.names.contains(&"FI_EFA_SHM_AV_SIZE"));
        assert_eq!(row.map(|row| row.default), Some("256"));
        assert_eq!(SHM_AV_SIZE, 256);
    }
}
