//! The end of a job as JUnit's XML, which continuous-integration servers show: a test case per rank.
//!
//! Made of the final report ([`super::final_report`]). A rank that failed is a failure, with its clues and last lines; one
//! that the launcher ended, or whose end is not known, was skipped. A job that was not launched, or that failed though no
//! rank did, is one more case with an error.

use std::fmt::Write;

use serde_json::Value;

/// Makes the document.
pub fn document(report: &Value) -> String {
    let ranks = report["ranks"].as_array().map_or(&[][..], Vec::as_slice);
    let mut cases: Vec<Case> = ranks.iter().map(rank_case).collect();
    let failures = cases.iter().filter(|case| matches!(case.outcome, Outcome::Failed { .. })).count();
    let mut errors = 0;
    if let (Some(error), 0) = (report["error"].as_str(), failures) {
        errors = 1;
        let outcome = Outcome::Error { kind: text(&report["exit"]["cause"]), words: error.to_owned() };
        cases.insert(0, Case { name: "job".to_owned(), class: "efarun".to_owned(), time_s: 0.0, outcome });
    }
    let skipped = cases.iter().filter(|case| matches!(case.outcome, Outcome::Skipped(_))).count();
    let time_s = report["took_ms"].as_u64().unwrap_or(0) as f64 / 1000.0;
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let counts = format!(
        "tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{time_s:.3}\"",
        cases.len()
    );
    let _ = writeln!(xml, "<testsuites {counts}>\n<testsuite name=\"efarun\" {counts}>");
    cases.iter().for_each(|case| case.write(&mut xml));
    xml + "</testsuite>\n</testsuites>\n"
}

struct Case {
    name: String,
    class: String,
    time_s: f64,
    outcome: Outcome,
}

enum Outcome {
    Passed,
    Failed { kind: String, message: String, words: String },
    Error { kind: String, words: String },
    Skipped(&'static str),
}

fn rank_case(rank: &Value) -> Case {
    let outcome = match (&rank["status"], rank["ended_by_launcher"].as_bool()) {
        (Value::Null, _) => Outcome::Skipped("its end is not known"),
        (_, Some(true)) => Outcome::Skipped("ended by the launcher"),
        _ if rank["code"] == 0 => Outcome::Passed,
        (status, _) => Outcome::Failed {
            kind: if rank["signal"].is_null() { "code".to_owned() } else { "signal".to_owned() },
            message: text(status),
            words: words(rank),
        },
    };
    Case {
        name: format!("rank {}", rank["rank"]),
        class: format!("efarun.{}", text(&rank["host"])),
        time_s: rank["ran_ms"].as_u64().unwrap_or(0) as f64 / 1000.0,
        outcome,
    }
}

fn words(rank: &Value) -> String {
    let list = |key: &str| rank[key].as_array().map_or(&[][..], Vec::as_slice);
    let clues = list("clues").iter().map(|clue| text(&clue["text"]));
    clues.chain(list("last_stderr").iter().map(text)).collect::<Vec<_>>().join("\n")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Case {
    fn write(&self, xml: &mut String) {
        let (name, class, time_s) = (escaped(&self.name), escaped(&self.class), self.time_s);
        let open = format!("<testcase name=\"{name}\" classname=\"{class}\" time=\"{time_s:.3}\"");
        let inner = match &self.outcome {
            Outcome::Passed => {
                let _ = writeln!(xml, "{open}/>");
                return;
            }
            Outcome::Failed { kind, message, words } => {
                let (kind, message, words) = (escaped(kind), escaped(message), escaped(words));
                format!("<failure type=\"{kind}\" message=\"{message}\">{words}</failure>")
            }
            Outcome::Error { kind, words } => {
                let first = words.lines().next().unwrap_or_default();
                let (kind, first, words) = (escaped(kind), escaped(first), escaped(words));
                format!("<error type=\"{kind}\" message=\"{first}\">{words}</error>")
            }
            Outcome::Skipped(why) => format!("<skipped message=\"{}\"/>", escaped(why)),
        };
        let _ = writeln!(xml, "{open}>{inner}</testcase>");
    }
}

/// Text for an element or an attribute. What XML 1.0 cannot hold at all is replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranks_are_cases_and_what_they_said_is_escaped() {
        let report = json!({
            "error": "rank 1 failed", "took_ms": 1500,
            "ranks": [
                { "rank": 0, "host": "a", "status": "exited with code 0", "code": 0, "signal": null, "ran_ms": 10,
                  "ended_by_launcher": false },
                { "rank": 1, "host": "b", "status": "was killed by signal 9", "code": null, "signal": 9, "ran_ms": 20,
                  "ended_by_launcher": false, "clues": [{ "kind": "out-of-memory", "text": "x < y" }],
                  "last_stderr": ["a \u{1b} & \"b\""] },
                { "rank": 2, "host": "b", "status": "exited with code 0", "code": 0, "signal": null, "ran_ms": 20,
                  "ended_by_launcher": true },
                { "rank": 3, "host": "b", "status": null, "ran_ms": null, "ended_by_launcher": null },
            ],
        });
        let xml = document(&report);
        let lines: Vec<&str> = xml.lines().collect();
        assert_eq!(
            lines[1],
            "<testsuites tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"2\" time=\"1.500\">"
        );
        assert_eq!(lines[3], "<testcase name=\"rank 0\" classname=\"efarun.a\" time=\"0.010\"/>");
        assert!(
            lines[4].contains("<failure type=\"signal\" message=\"was killed by signal 9\">x &lt; y"),
            "{xml}"
        );
        assert_eq!(lines[5], "a \u{fffd} &amp; &quot;b&quot;</failure></testcase>");
        assert!(lines[6].contains("<skipped message=\"ended by the launcher\"/>"), "{xml}");
    }

    #[test]
    fn a_job_that_did_not_run_is_one_error() {
        let xml = document(&json!({ "error": "no\nhost", "exit": { "cause": "data" }, "ranks": [] }));
        assert!(xml.contains("tests=\"1\" failures=\"0\" errors=\"1\""), "{xml}");
        assert!(xml.contains("<error type=\"data\" message=\"no\">no\nhost</error>"), "{xml}");
    }
}
