//! Ranges in hosts' names, as Slurm writes them: `p4d[01-16]`, `r[0-1]n[00-03,07]`.
//!
//! [`expand`] gives every name that is meant, in order; [`compress`] does the opposite. A number keeps the zeros before
//! it; several brackets are all combinations, the last one running fastest. Brackets around an IPv6 address hold a `:`
//! and are left alone, as is text without brackets.

use super::entry::{MAX_NAME_BYTES, Misread};
use super::{MAX_HOSTS, Problem};

/// Gives the names that an entry means; itself where it has no range.
pub(super) fn expand(text: &str) -> Result<Vec<String>, Misread> {
    let mut names = vec![String::new()];
    let (mut rest, mut at) = (text, 0);
    while let Some(open) = rest.find('[') {
        // Before it is repeated for every number.
        check_len(open).map_err(|misread| Misread { at, ..misread })?;
        let inside = &rest[open + 1..];
        let unclosed = Misread { at: at + open, problem: Problem::UnclosedBracket };
        let close = inside.find(']').ok_or(unclosed)?;
        let inside = &inside[..close];
        let after = open + close + 2;
        if inside.contains(':') {
            append(&mut names, &[rest[..after].to_owned()])?;
        } else {
            let numbers = numbers(inside).map_err(|offset| Misread {
                at: at + open + 1 + offset,
                problem: Problem::Range { found: inside.escape_default().to_string() },
            })?;
            let endings: Vec<String> =
                numbers.iter().map(|number| format!("{}{number}", &rest[..open])).collect();
            append(&mut names, &endings).map_err(|misread| Misread { at: at + open, ..misread })?;
        }
        (rest, at) = (&rest[after..], at + after);
    }
    append(&mut names, &[rest.to_owned()])?;
    Ok(names)
}

/// Puts each ending behind each name.
fn append(names: &mut Vec<String>, endings: &[String]) -> Result<(), Misread> {
    if names.len().saturating_mul(endings.len()) > MAX_HOSTS {
        return Err(Misread { at: 0, problem: Problem::TooManyHosts });
    }
    if let ([name, _, ..], [ending, ..]) | ([name], [ending, _, ..]) = (&names[..], endings) {
        check_len(name.len() + ending.len())?;
    }
    *names =
        names.iter().flat_map(|name| endings.iter().map(move |ending| format!("{name}{ending}"))).collect();
    Ok(())
}

/// Refuses what would be too long for a host's name with a user before it, however it ends.
fn check_len(len_bytes: usize) -> Result<(), Misread> {
    if len_bytes > 2 * MAX_NAME_BYTES {
        return Err(Misread { at: 0, problem: Problem::TooLong { len_bytes } });
    }
    Ok(())
}

/// The numbers of a bracket; on failure, how many bytes into it.
fn numbers(inside: &str) -> Result<Vec<String>, usize> {
    let mut numbers = Vec::new();
    let mut at = 0;
    for part in inside.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let is_number = |text: &str| {
            (1..=MOST_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !is_number(first) || !is_number(last) {
            return Err(at);
        }
        let (from, to): (u64, u64) = (first.parse().map_err(|_| at)?, last.parse().map_err(|_| at)?);
        if to < from || to - from >= MAX_HOSTS as u64 || numbers.len() > MAX_HOSTS {
            return Err(at);
        }
        let width = if first.starts_with('0') { first.len() } else { 1 };
        numbers.extend((from..=to).map(|number| format!("{number:0width$}")));
        at += part.len() + 1;
    }
    Ok(numbers)
}

/// Writes names as Slurm would, in their order: consecutive numbers at the end of a name become a range.
pub(super) fn compress(names: &[String]) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for name in names {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count().min(MOST_DIGITS);
        let (stem, number) = name.split_at(name.len() - digits);
        match groups.last_mut() {
            Some((known, numbers)) if *known == stem && goes_on(stem, numbers[0], number) => {
                numbers.push(number)
            }
            _ => groups.push((stem, vec![number])),
        }
    }
    let group = |(stem, numbers): &(&str, Vec<&str>)| match &numbers[..] {
        [only] => format!("{stem}{only}"),
        numbers => format!("{stem}[{}]", runs(numbers)),
    };
    groups.iter().map(group).collect::<Vec<_>>().join(",")
}

/// Addresses, and names that end in no number, stay as they are.
fn goes_on(stem: &str, first: &str, number: &str) -> bool {
    !first.is_empty() && !number.is_empty() && !stem.contains([':', '.'])
}

fn runs(numbers: &[&str]) -> String {
    let follows = |a: &&str, b: &&str| {
        let (first, second): (u64, u64) = (a.parse().unwrap_or(0), b.parse().unwrap_or(0));
        let width = a.len();
        first + 1 == second && format!("{second:0width$}") == **b
    };
    let run = |run: &[&str]| match run {
        [first, .., last] => format!("{first}-{last}"),
        [only] => (*only).to_owned(),
        [] => String::new(),
    };
    numbers.chunk_by(follows).map(run).collect::<Vec<_>>().join(",")
}

/// More digits than any host is numbered by, and few enough for a `u64`.
const MOST_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str) -> String {
        expand(text).unwrap().join(" ")
    }

    #[test]
    fn ranges_are_slurms() {
        assert_eq!(expanded("p4d[08-11]"), "p4d08 p4d09 p4d10 p4d11");
        assert_eq!(expanded("u@n[1,3-4]x:8"), "u@n1x:8 u@n3x:8 u@n4x:8");
        assert_eq!(expanded("r[0-1]n[00-01]"), "r0n00 r0n01 r1n00 r1n01");
        assert_eq!(expanded("[fd00::1]:4"), "[fd00::1]:4");
        assert_eq!(expanded("plain"), "plain");
        assert_eq!(expanded("n[9-10]"), "n9 n10");
    }

    #[test]
    fn what_is_no_range_is_refused_with_its_place() {
        for (text, at) in [
            ("n[1-", 1),
            ("n[x]", 2),
            ("n[1,]", 4),
            ("n[3-1]", 2),
            ("n[]", 2),
            ("n[1,2-x]", 4),
            ("n[1-99999999]", 2),
        ] {
            assert_eq!(expand(text).unwrap_err().at, at, "{text}");
        }
        assert_eq!(expand("n[0-99][0-99]").unwrap_err().problem, Problem::TooManyHosts);
    }

    /// Found by the fuzzer: a long text beside a range took its length times the number of hosts.
    #[test]
    fn text_that_is_too_long_for_a_name_is_not_repeated() {
        let long = "n".repeat(2 * MAX_NAME_BYTES);
        for text in [format!("{long}n[1-8192]"), format!("[1-8192]{long}n"), format!("[1-90]{long}[1-90]")] {
            let misread = expand(&text).unwrap_err();
            assert!(matches!(misread.problem, Problem::TooLong { .. }), "{:?}", misread.problem);
        }
        assert_eq!(expand(&format!("{long}[::1]")).unwrap().len(), 1);
    }

    #[test]
    fn names_are_written_as_slurm_would() {
        let compressed = |names: &str| compress(&names.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(compressed("n1 n2 n3 n5"), "n[1-3,5]");
        assert_eq!(compressed("p09 p10 p11"), "p[09-11]");
        assert_eq!(compressed("n9 n10 m1 x"), "n[9-10],m1,x");
        assert_eq!(compressed("10.0.0.1 10.0.0.2"), "10.0.0.1,10.0.0.2");
    }

    proptest! {
        #[test]
        fn what_is_compressed_expands_to_the_same(names in prop::collection::vec("[a-c]{1,2}[0-9]{0,3}", 1..12)) {
            let text = compress(&names);
            let mut depth = 0;
            let parts = text.split(|c: char| {
                depth += i32::from(c == '[') - i32::from(c == ']');
                c == ',' && depth == 0
            });
            let again: Vec<String> = parts.flat_map(|part| expand(part).unwrap()).collect();
            prop_assert_eq!(again, names);
        }

        #[test]
        fn any_text_gives_names_or_an_error(text in "[a\\[\\]0-9,:-]{0,20}") {
            let _ = expand(&text);
        }
    }
}
