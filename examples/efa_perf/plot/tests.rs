//! The picture as a reader gets it: valid XML, all curves, everything within the frame.

use roxmltree::{Document, Node};

use super::draw;
use crate::report::tests::{config, row};
use crate::report::{Report, Row, Sample};

fn rows(collective: &'static str, bound: bool) -> Vec<Row> {
    (3..24)
        .map(|power| {
            let size_bytes = 1u64 << power;
            let half = |us: f64| Sample::new(size_bytes, us / 1e6, 1.5);
            let us = 12.0 + size_bytes as f64 / 5000.0;
            let mut row = Row {
                collective,
                size_bytes,
                out_of_place: half(us),
                in_place: Some(half(us * 1.1)),
                ..row(None)
            };
            if bound {
                row.set_bound(us / 2.0);
            }
            row
        })
        .collect()
}

fn with_class<'a>(document: &'a Document<'a>, class: &'a str) -> Vec<Node<'a, 'a>> {
    let has = move |node: &Node| {
        node.attribute("class").is_some_and(|classes| classes.split(' ').any(|one| one == class))
    };
    document.descendants().filter(has).collect()
}

fn texts(document: &Document) -> Vec<String> {
    document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .filter_map(|node| node.text())
        .map(str::to_owned)
        .collect()
}

#[test]
fn one_collective_shows_both_halves_and_the_bound() {
    let svg = draw(&Report::new(config("all_reduce"), rows("all_reduce", true)));
    let document = Document::parse(&svg).unwrap();
    // In each of two diagrams two curves and a bound, and each once more in the legend.
    assert_eq!(with_class(&document, "curve").len(), 3 * 3);
    assert_eq!(with_class(&document, "bound").len(), 3);
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("circle")).count(), 2 * 2 * 21);
    for text in ["all_reduce float sum", "out of place", "in place", "bound", "busbw (GB/s)", "32 KiB"] {
        assert!(texts(&document).iter().any(|found| found == text), "{text}: {:?}", texts(&document));
    }
}

#[test]
fn several_collectives_are_told_apart_and_barriers_left_out() {
    let mut rows = [rows("all_reduce", true), rows("broadcast", true)].concat();
    let none = || "none".to_owned();
    rows.push(Row {
        collective: "barrier",
        element: none(),
        redop: none(),
        size_bytes: 0,
        in_place: None,
        ..row(None)
    });
    let svg = draw(&Report::new(config("all"), rows));
    let document = Document::parse(&svg).unwrap();
    // Two curves and two bounds in each diagram; in the legend the bounds share an entry.
    assert_eq!(with_class(&document, "curve").len(), 2 * 4 + 3);
    let texts = texts(&document);
    for label in ["all float sum", "all_reduce", "broadcast", "bound, in the colour of each"] {
        assert!(texts.iter().any(|text| text == label), "{label}: {texts:?}");
    }
    assert!(!texts.iter().any(|text| text.contains("barrier")), "{texts:?}");
}

#[test]
fn many_types_and_roots_are_named_as_far_as_there_is_room() {
    let mut all = Vec::new();
    for root in 0..40 {
        for redop in ["sum", "prod"] {
            let of = rows("reduce", false).into_iter();
            all.extend(of.map(|row| Row {
                root,
                redop: redop.to_owned(),
                element: format!("bfloat{root}"),
                ..row
            }));
        }
    }
    let svg = draw(&Report::new(config("reduce"), all));
    let texts = texts(&Document::parse(&svg).unwrap());
    assert!(texts.iter().any(|text| text == "reduce bfloat0 prod root 0"), "{texts:?}");
    assert!(texts.iter().any(|text| text == "and 59 more"), "{texts:?}");
}

#[test]
fn everything_lies_within_the_picture() {
    let mut all = rows("reduce", true);
    let of = rows("reduce", true).into_iter();
    all.extend(of.map(|row| Row {
        root: 127,
        redop: "prod".to_owned(),
        element: "bfloat16".to_owned(),
        ..row
    }));
    let svg = draw(&Report::new(config("reduce"), all));
    let document = Document::parse(&svg).unwrap();
    let within = |node: &Node, names: &[&str], limit: f64| {
        for name in names {
            if let Some(value) = node.attribute(*name).map(|text| text.parse::<f64>().unwrap()) {
                assert!((0.0..=limit).contains(&value), "{name}={value}");
            }
        }
    };
    for node in document.descendants() {
        // Letters are narrower than 7 at these sizes.
        if let (Some("start"), Some(text)) = (node.attribute("text-anchor"), node.text()) {
            let end = node.attribute("x").unwrap().parse::<f64>().unwrap() + 7.0 * text.len() as f64;
            assert!(end <= super::WIDTH, "{text} ends at {end}");
        }
        within(&node, &["x", "x1", "x2", "cx"], super::WIDTH);
        within(&node, &["y", "y1", "y2", "cy"], super::HEIGHT);
    }
}

#[test]
fn worlds_of_one_and_single_sizes_can_be_drawn() {
    let mut row = row(None);
    row.out_of_place = Sample::new(1 << 20, 1e-3, 0.0);
    row.in_place = None;
    let mut bounded = row.clone();
    bounded.set_bound(0.0);
    let svg = draw(&Report::new(config("all_reduce"), vec![row, bounded]));
    assert!(Document::parse(&svg).is_ok());
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert!(Document::parse(&draw(&Report::new(config("all_reduce"), Vec::new()))).is_ok());
}
