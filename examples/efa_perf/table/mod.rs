//! Results as text: nccl-tests' header, columns and footer, so that what reads its output reads ours.
//!
//! Pure. Numbers keep their column's width and give up decimals for it, as in nccl-tests 2.19.

use crate::report::{Config, Report, Row, Sample};
use crate::units::counted;

/// Everything above the first row of a collective.
pub(crate) fn header(config: &Config) -> String {
    let step = match (config.step_factor, config.step_bytes) {
        (Some(factor), _) => format!("{factor}(factor)"),
        (None, step) => format!("{}(bytes)", step.unwrap_or_default()),
    };
    let mut lines = vec![
        format!("# efa-perf version {}", config.version),
        format!("# Collective test starting: {}", config.collective),
        format!(
            "# minBytes {} maxBytes {} step: {step} warmup iters: {} iters: {} validation: {} algo: {}",
            config.min_bytes,
            config.max_bytes,
            config.warmup_iters,
            config.iters,
            config.check_iters,
            config.algo
        ),
        "#".to_owned(),
        format!("# {} on {}", counted(config.ranks, "rank"), counted(config.nodes, "node")),
    ];
    lines.extend(config.transports.iter().map(|line| format!("#  rank 0: {line}")));
    lines.extend(config.rotate.iter().map(|line| format!("#  rotate: {line}")));
    lines.extend(config.buffers.iter().map(|line| format!("#  buffers: {line}")));
    if config.shows_percentiles {
        lines.push(format!("#  p50, p99: of {}, each {}", counted(config.iters, "call"), config.average));
    }
    if config.shows_bound {
        let sources = config.link.iter().flat_map(|link| link.sources.iter().map(String::as_str));
        let sources: Vec<&str> = sources.collect();
        let sources = if sources.is_empty() { vec!["none in a world of one rank"] } else { sources };
        lines.extend(sources.iter().map(|source| format!("#  bound: {source}")));
    }
    lines.push("#".to_owned());
    lines.extend(captions(config));
    lines.join("\n") + "\n"
}

/// One row.
pub(crate) fn row(config: &Config, row: &Row) -> String {
    let mut text = format!(
        "{:>12}  {:>12}  {:>8}  {:>6}  {:>6}{}{}",
        row.size_bytes,
        row.count,
        row.element,
        row.redop,
        row.root,
        half(Some(row.out_of_place)),
        half(row.in_place)
    );
    if config.shows_percentiles {
        for half in [Some(row.out_of_place), row.in_place] {
            text += &percentile(half.and_then(|half| half.p50_us));
            text += &percentile(half.and_then(|half| half.p99_us));
        }
    }
    if config.shows_bound {
        text += &format!("  {}", row.bound.map_or_else(|| format!("{NOTHING:>7}"), |us| fitted(us, 7)));
        for half in [Some(row.out_of_place), row.in_place] {
            text += &reached(half.and_then(|half| half.bound_fraction));
        }
    }
    text + "\n"
}

/// Everything below the last row of a collective.
pub(crate) fn footer(report: &Report) -> String {
    let verdict = if report.out_of_bounds == 0 { "OK" } else { "FAILED" };
    format!(
        "# Out of bounds values : {} {verdict}\n# Avg bus bandwidth    : {} \n#\n# Collective test concluded: {}\n",
        report.out_of_bounds,
        six_digits(report.avg_bus_bw_gbps),
        report.config.collective
    )
}

/// nccl-tests' three lines, and to their right what was asked for beyond.
fn captions(config: &Config) -> [String; 3] {
    let mut lines = [
        format!(
            "# {:10}  {:12}  {:8}  {:6}  {:6}{:>23}{:>31}",
            "", "", "", "", "", "out-of-place", "in-place"
        ),
        caption(["size", "count", "type", "redop", "root"], ["time", "algbw", "busbw", "#wrong"]),
        caption(["(B)", "(elements)", "", "", ""], ["(us)", "(GB/s)", "(GB/s)", ""]),
    ];
    let mut beyond = |columns: [String; 3]| {
        for (line, column) in lines.iter_mut().zip(columns) {
            // nccl-tests' own lines end where their last words do.
            *line = format!("{line:<WIDTH$}{column}");
        }
    };
    if config.shows_percentiles {
        beyond([
            format!("{:>18}{:>18}", "out-of-place", "in-place"),
            format!("{:>9}{:>9}{:>9}{:>9}", "p50", "p99", "p50", "p99"),
            format!("{:>9}{:>9}{:>9}{:>9}", "(us)", "(us)", "(us)", "(us)"),
        ]);
    }
    if config.shows_bound {
        beyond([
            format!("{:>9}{:>14}{:>14}", "", "out-of-place", "in-place"),
            format!("{:>9}{:>14}{:>14}", "bound", "reached", "reached"),
            format!("{:>9}{:>14}{:>14}", "(us)", "(%)", "(%)"),
        ]);
    }
    lines
}

fn caption(of_row: [&str; 5], of_half: [&str; 4]) -> String {
    let [size, count, element, redop, root] = of_row;
    let [time, algbw, busbw, wrong] = of_half;
    let half = format!("  {time:>7}  {algbw:>6}  {busbw:>6}  {wrong:>6}");
    format!("# {size:>10}  {count:>12}  {element:>8}  {redop:>6}  {root:>6}{half}{half}")
}

fn half(sample: Option<Sample>) -> String {
    let Some(sample) = sample else {
        return format!("  {NOTHING:>7}  {NOTHING:>6}  {NOTHING:>6}  {NOTHING:>6}");
    };
    let wrong = sample.wrong.map_or_else(|| NOTHING.to_owned(), |wrong| wrong.to_string());
    format!(
        "  {}  {}  {}  {wrong:>6}",
        fitted(sample.time_us, 7),
        fitted(sample.alg_bw_gbps, 6),
        fitted(sample.bus_bw_gbps, 6)
    )
}

fn percentile(us: Option<f64>) -> String {
    format!("  {}", us.map_or_else(|| format!("{NOTHING:>7}"), |us| fitted(us, 7)))
}

fn reached(fraction: Option<f64>) -> String {
    let percent = fraction.map_or_else(|| NOTHING.to_owned(), |fraction| format!("{:.1}", 100.0 * fraction));
    format!("{percent:>14}")
}

/// A number in `width` columns, with two decimals while they leave room.
fn fitted(value: f64, width: usize) -> String {
    let texts = [2, 1, 0].map(|decimals| format!("{value:>width$.decimals$}"));
    let scientific = || format!("{value:>width$.0e}");
    texts.into_iter().find(|text| text.len() <= width).unwrap_or_else(scientific)
}

/// A number with six significant digits and no zeros behind the last one that counts.
fn six_digits(value: f64) -> String {
    let whole_digits = if value.abs() >= 1.0 { value.abs().log10().floor() as usize + 1 } else { 1 };
    let text = format!("{value:.*}", 6usize.saturating_sub(whole_digits));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Where there is no number, as in nccl-tests.
const NOTHING: &str = "N/A";

/// Of nccl-tests' columns.
const WIDTH: usize = 118;

#[cfg(test)]
mod tests;
