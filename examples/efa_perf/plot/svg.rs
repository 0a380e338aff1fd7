//! The elements of an SVG file that the picture uses, written as text.

use std::fmt::Write;

/// A file that grows.
#[derive(Debug)]
pub(super) struct Svg {
    text: String,
}

type Point = (f64, f64);

impl Svg {
    /// An empty picture with a background.
    pub(super) fn new(width: f64, height: f64, style: &str) -> Self {
        let mut svg = Svg { text: String::new() };
        svg.write(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
             {height}\">\n<style>{style}</style>\n\
             <rect class=\"background\" width=\"{width}\" height=\"{height}\"/>"
        ));
        svg
    }

    /// Text that begins here.
    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        self.text_anchored((x, y), "start", class, text);
    }

    /// Text whose middle is here.
    pub(super) fn text_middle(&mut self, x: f64, y: f64, class: &str, text: &str) {
        self.text_anchored((x, y), "middle", class, text);
    }

    /// Text that ends here.
    pub(super) fn text_end(&mut self, x: f64, y: f64, class: &str, text: &str) {
        self.text_anchored((x, y), "end", class, text);
    }

    /// A straight line.
    pub(super) fn line(&mut self, from: Point, to: Point, class: &str) {
        self.write(format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    /// A rectangle that is not filled.
    pub(super) fn frame(&mut self, (left, top): Point, (right, bottom): Point, class: &str) {
        self.write(format_args!(
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            right - left,
            bottom - top
        ));
    }

    /// Straight lines from point to point.
    pub(super) fn curve(&mut self, points: &[Point], class: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.write(format_args!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" ")));
    }

    /// A point.
    pub(super) fn dot(&mut self, (x, y): Point, class: &str) {
        self.write(format_args!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>"));
    }

    /// The whole file.
    pub(super) fn finish(mut self) -> String {
        self.write(format_args!("</svg>"));
        self.text
    }

    fn text_anchored(&mut self, (x, y): Point, anchor: &str, class: &str, text: &str) {
        let text = escaped(text);
        self.write(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn write(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{element}").expect("strings take all text");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
