//! Which curves a run makes.
//!
//! Pure. Rows that differ in nothing but size are one curve. A run of one such group shows both of its halves; a run of
//! several shows each group's out-of-place half, so that the picture stays readable. Every group has its bound.

use crate::report::{Row, Sample};

/// A line of the picture, in both diagrams.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// For the legend; none where another's stands for it.
    pub(super) label: Option<String>,
    /// Whether it is what physics allows, not what was measured.
    pub(super) is_bound: bool,
    /// Its number among the colours.
    color: usize,
    /// Its points.
    pub(super) curve: Curve,
}

/// What is drawn over sizes. Values that have no logarithm are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Curve {
    /// Bytes and GB/s.
    pub(super) bus_bw_gbps: Vec<(u64, f64)>,
    /// Bytes and microseconds.
    pub(super) time_us: Vec<(u64, f64)>,
}

impl Series {
    /// The classes of its line.
    pub(super) fn class(&self) -> String {
        let dash = match (self.is_bound, self.color / COLORS) {
            (true, _) => " bound",
            (false, 0) => "",
            (false, _) => " second",
        };
        format!("curve c{}{dash}", self.color % COLORS)
    }

    /// The class of its points.
    pub(super) fn dot_class(&self) -> String {
        format!("d{}", self.color % COLORS)
    }
}

impl Curve {
    fn push(&mut self, size_bytes: u64, bus_bw_gbps: f64, time_us: f64) {
        let points = [(&mut self.bus_bw_gbps, bus_bw_gbps), (&mut self.time_us, time_us)];
        for (curve, value) in points {
            if value > 0.0 && value.is_finite() {
                curve.push((size_bytes, value));
            }
        }
    }
}

/// The curves of these rows, in the order of measuring.
pub(super) fn of(rows: &[Row]) -> Vec<Series> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.size_bytes > 0).collect();
    let shown = Differences::of(&rows);
    let mut groups: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in rows {
        let label = shown.label(row);
        match groups.iter_mut().find(|(known, _)| *known == label) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((label, vec![row])),
        }
    }
    match &groups[..] {
        [(_, rows)] => {
            let halves = [
                measured("out of place", 0, rows, |row| Some(row.out_of_place)),
                measured("in place", 1, rows, |row| row.in_place),
            ];
            halves.into_iter().chain([bound(Some("bound"), BOUND_COLOR, rows)]).flatten().collect()
        }
        groups => {
            let group = |(color, (label, rows)): (usize, &(String, Vec<&Row>))| {
                let measured = measured(label, color, rows, |row| Some(row.out_of_place));
                [measured, bound(None, color, rows)].into_iter().flatten()
            };
            groups.iter().enumerate().flat_map(group).collect()
        }
    }
}

/// What the rows do not have in common, beside their sizes.
struct Differences {
    elements: bool,
    reductions: bool,
    roots: bool,
}

impl Differences {
    fn of(rows: &[&Row]) -> Self {
        let reductions = rows.iter().map(|row| row.redop.as_str()).filter(|redop| *redop != "none");
        let roots = rows.iter().map(|row| row.root).filter(|root| *root >= 0);
        Differences {
            elements: differ(rows.iter().map(|row| row.element.as_str())),
            reductions: differ(reductions),
            roots: differ(roots),
        }
    }

    fn label(&self, row: &Row) -> String {
        let mut label = row.collective.to_owned();
        if self.elements {
            label += &format!(" {}", row.element);
        }
        if self.reductions && row.redop != "none" {
            label += &format!(" {}", row.redop);
        }
        if self.roots && row.root >= 0 {
            label += &format!(" root {}", row.root);
        }
        label
    }
}

fn differ<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    let first = values.next();
    values.any(|value| Some(value) != first)
}

fn measured(label: &str, color: usize, rows: &[&Row], half: fn(&Row) -> Option<Sample>) -> Option<Series> {
    let mut curve = Curve::default();
    for row in rows {
        if let Some(half) = half(row) {
            curve.push(row.size_bytes, half.bus_bw_gbps, half.time_us);
        }
    }
    let series = Series { label: Some(label.to_owned()), is_bound: false, color, curve };
    (!series.curve.time_us.is_empty()).then_some(series)
}

fn bound(label: Option<&str>, color: usize, rows: &[&Row]) -> Option<Series> {
    let mut curve = Curve::default();
    for row in rows {
        if let Some(bound_us) = row.bound {
            let half = row.out_of_place;
            curve.push(row.size_bytes, half.bus_bw_gbps * half.time_us / bound_us, bound_us);
        }
    }
    let series = Series { label: label.map(str::to_owned), is_bound: true, color, curve };
    (!series.curve.time_us.is_empty()).then_some(series)
}

/// Of the seven colours the one without any.
const BOUND_COLOR: usize = 6;

const COLORS: usize = 7;
