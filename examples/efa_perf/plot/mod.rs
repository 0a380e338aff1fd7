//! A picture of a run: busbw and time against size, both axes logarithmic, with the bound where there is one.
//!
//! Pure: from a [`Report`] to the text of an SVG file. [`series`] chooses the curves, [`axis`] places numbers, [`svg`]
//! writes elements. The file needs nothing else, no font and no script; its colours follow the reader's light or dark
//! setting where the reader has one.

mod axis;
mod series;
mod svg;
#[cfg(test)]
mod tests;

use self::axis::{Axis, Unit};
use self::series::{Curve, Series};
use self::svg::Svg;
use crate::report::{Report, Row};
use crate::units::counted;

/// Draws the report. Rows without a size, a barrier's, are not in it.
pub(crate) fn draw(report: &Report) -> String {
    let series = series::of(&report.results);
    let config = &report.config;
    let mut svg = Svg::new(WIDTH, HEIGHT, STYLE);
    svg.text(LEFT, 28.0, "title", &title(report));
    let place = format!(
        "{} on {}, algorithm {}, mean of {} calls",
        counted(config.ranks, "rank"),
        counted(config.nodes, "node"),
        config.algo,
        config.iters
    );
    svg.text(LEFT, 47.0, "note", &place);
    let sizes = Axis::new(sizes(&series), LEFT, RIGHT, Unit::Bytes);
    let busbw = Panel { top: 80.0, bottom: 296.0, caption: "busbw (GB/s)", unit: Unit::Plain };
    busbw.draw(&mut svg, &sizes, &series, |curve| &curve.bus_bw_gbps);
    let time = Panel { top: 338.0, bottom: 554.0, caption: "time per call", unit: Unit::Microseconds };
    time.draw(&mut svg, &sizes, &series, |curve| &curve.time_us);
    svg.text_middle((LEFT + RIGHT) / 2.0, 588.0, "note", "size");
    legend(&mut svg, &series);
    svg.finish()
}

/// One of the two diagrams.
struct Panel {
    top: f64,
    bottom: f64,
    caption: &'static str,
    unit: Unit,
}

impl Panel {
    fn draw(&self, svg: &mut Svg, sizes: &Axis, series: &[Series], values: impl Fn(&Curve) -> &[(u64, f64)]) {
        let all = series.iter().flat_map(|series| values(&series.curve).iter().map(|(_, value)| *value));
        let axis = Axis::new(all, self.bottom, self.top, self.unit);
        svg.text(LEFT, self.top - 7.0, "note", self.caption);
        for tick in axis.ticks(MAX_Y_TICKS) {
            let y = axis.place(tick.value);
            svg.line((LEFT, y), (RIGHT, y), "grid");
            svg.text_end(LEFT - 8.0, y + 4.0, "tick", &tick.label);
        }
        for tick in sizes.ticks(MAX_X_TICKS) {
            let x = sizes.place(tick.value);
            svg.line((x, self.top), (x, self.bottom), "grid");
            svg.text_middle(x, self.bottom + 16.0, "tick", &tick.label);
        }
        svg.frame((LEFT, self.top), (RIGHT, self.bottom), "frame");
        for series in series {
            let place = |&(size, value): &(u64, f64)| (sizes.place(size as f64), axis.place(value));
            let points: Vec<(f64, f64)> = values(&series.curve).iter().map(place).collect();
            svg.curve(&points, &series.class());
            if !series.is_bound {
                points.iter().for_each(|point| svg.dot(*point, &series.dot_class()));
            }
        }
    }
}

/// The collective, with the type and reduction that all have in common.
fn title(report: &Report) -> String {
    let common = |of: fn(&Row) -> &str| {
        let mut values = report.results.iter().map(of).filter(|value| *value != "none");
        let first = values.next()?;
        values.all(|value| value == first).then_some(first)
    };
    let words = [Some(report.config.collective), common(|row| &row.element), common(|row| &row.redop)];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn sizes(series: &[Series]) -> impl Iterator<Item = f64> {
    series.iter().flat_map(|series| series.curve.time_us.iter().map(|(size, _)| *size as f64))
}

fn legend(svg: &mut Svg, series: &[Series]) {
    let labelled = series.iter().filter_map(|series| Some((series.class(), series.label.as_deref()?)));
    let mut entries: Vec<(String, &str)> = labelled.collect();
    let more = entries.len().saturating_sub(MAX_LEGEND);
    entries.truncate(MAX_LEGEND);
    if let Some(bound) = series.iter().find(|series| series.label.is_none()) {
        entries.push((bound.class(), "bound, in the colour of each"));
    }
    let mut y = 92.0;
    for (class, label) in entries {
        svg.curve(&[(RIGHT + 20.0, y - 4.0), (RIGHT + 44.0, y - 4.0)], &class);
        svg.text(RIGHT + 52.0, y, "tick", label);
        y += 20.0;
    }
    if more > 0 {
        svg.text(RIGHT + 52.0, y, "tick", &format!("and {more} more"));
    }
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 600.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 640.0;

const MAX_X_TICKS: usize = 9;
const MAX_Y_TICKS: usize = 8;
const MAX_LEGEND: usize = 21;

/// Colours that people with any colour vision tell apart (Okabe and Ito's), on white or nearly black.
const STYLE: &str = "
  svg { font-family: system-ui, 'DejaVu Sans', sans-serif; }
  .background { fill: #ffffff; }
  text { fill: #222222; }
  .title { font-size: 18px; font-weight: bold; }
  .note { font-size: 13px; }
  .tick { font-size: 12px; }
  .grid { stroke: #dddddd; stroke-width: 1; }
  .frame { stroke: #888888; stroke-width: 1; fill: none; }
  .curve { fill: none; stroke-width: 2; }
  .bound { stroke-dasharray: 7 4; }
  .second { stroke-dasharray: 2 3; }
  .c0 { stroke: #0072b2; } .d0 { fill: #0072b2; }
  .c1 { stroke: #d55e00; } .d1 { fill: #d55e00; }
  .c2 { stroke: #009e73; } .d2 { fill: #009e73; }
  .c3 { stroke: #cc79a7; } .d3 { fill: #cc79a7; }
  .c4 { stroke: #e69f00; } .d4 { fill: #e69f00; }
  .c5 { stroke: #56b4e9; } .d5 { fill: #56b4e9; }
  .c6 { stroke: #808080; } .d6 { fill: #808080; }
  @media (prefers-color-scheme: dark) {
    .background { fill: #16181c; }
    text { fill: #e6e6e6; }
    .grid { stroke: #3a3d44; }
  }
";
