//! Pictures of the results, as SVG: the ratios of all workloads, and the course of those that go on.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Error;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 740.0;
const ROW: f64 = 26.0;
const OURS: &str = "#1f6f8b";
const BARE: &str = "#c97b3d";
const INK: &str = "#333333";

/// Writes `ratio.svg`, and one file for each result with windows or samples.
pub(crate) fn write(folder: &Path, results: &[Value]) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("ratio.svg"), ratios(results))?;
    for result in results {
        if let Some(picture) = course(result) {
            let name: String = name(result)
                .chars()
                .map(|letter| {
                    if letter.is_alphanumeric() {
                        letter
                    } else {
                        '-'
                    }
                })
                .collect();
            fs::write(folder.join(name + ".svg"), picture)?;
        }
    }
    Ok(())
}

/// One bar for each workload, a line from the smallest to the largest round, and one at 1.
fn ratios(results: &[Value]) -> String {
    let ratio = |result: &Value| result["ratio"].as_f64();
    let shown: Vec<(&Value, f64)> = results
        .iter()
        .filter_map(|result| Some((result, ratio(result)?)))
        .collect();
    let bound =
        |result: &Value, of: &str, ratio| result["ratio_spread"][of].as_f64().unwrap_or(ratio);
    let largest = shown
        .iter()
        .map(|(result, ratio)| bound(result, "max", *ratio))
        .fold(1.2, f64::max);
    let x = |ratio: f64| LEFT + ratio / largest * (RIGHT - LEFT);
    let height = 50.0 + ROW * shown.len() as f64;
    let mut svg = Svg::new(height);
    svg.text(
        LEFT,
        20.0,
        "ours / bare: more is better, but less for latency, loaded, scheduled and idle",
    );
    for (row, (result, ratio)) in shown.iter().enumerate() {
        let top = 34.0 + ROW * row as f64;
        let middle = top + ROW / 2.0;
        svg.text(8.0, middle + 4.0, name(result));
        svg.bar(LEFT, top + 4.0, x(*ratio) - LEFT, ROW - 8.0);
        let (min, max) = (bound(result, "min", *ratio), bound(result, "max", *ratio));
        svg.line(&[(x(min), middle), (x(max), middle)], INK);
        svg.text(LEFT + 6.0, middle + 4.0, &format!("{ratio:.2}"));
    }
    svg.line(&[(x(1.0), 28.0), (x(1.0), height - 8.0)], INK);
    svg.end()
}

/// Messages per second in each window, or the memory in each sample, of a result that has some.
fn course(result: &Value) -> Option<String> {
    let rates = |whose: &str| -> Option<Vec<f64>> {
        let windows = result[whose].as_array()?.iter();
        Some(
            windows
                .filter_map(|window| window["rate"].as_f64())
                .collect(),
        )
    };
    if let Some(samples) = result["ours_samples"].as_array() {
        let samples = samples.iter().filter_map(Value::as_f64).collect();
        let title = format!("{}: resident MiB, from first to last message", name(result));
        return Some(curves(&title, " MiB", &[("ours", OURS, samples)]));
    }
    let (ours, bare) = (rates("ours_windows")?, rates("bare_windows")?);
    let title = format!("{}: messages/s over time", name(result));
    let both = [("ours", OURS, ours), ("bare", BARE, bare)];
    Some(curves(&title, "/s", &both))
}

/// One line for each series, all from zero to the largest value, with a legend below.
fn curves(title: &str, unit: &str, series: &[(&str, &str, Vec<f64>)]) -> String {
    let all = series.iter().flat_map(|(_, _, values)| values);
    let largest = all.copied().fold(1.0, f64::max);
    let (top, bottom) = (40.0, 280.0);
    let mut svg = Svg::new(310.0);
    svg.text(LEFT, 20.0, title);
    svg.text(8.0, top + 4.0, &format!("{largest:.0}{unit}"));
    svg.text(8.0, bottom + 4.0, "0");
    svg.line(&[(LEFT, top), (LEFT, bottom), (RIGHT, bottom)], INK);
    for (row, (whose, colour, values)) in series.iter().enumerate() {
        let steps = values.len().saturating_sub(1).max(1) as f64;
        let points: Vec<(f64, f64)> = values
            .iter()
            .enumerate()
            .map(|(step, value)| {
                let x = LEFT + step as f64 / steps * (RIGHT - LEFT);
                (x, bottom - value / largest * (bottom - top))
            })
            .collect();
        svg.line(&points, colour);
        let legend = 296.0 + 10.0 * row as f64;
        svg.line(&[(LEFT, legend - 4.0), (LEFT + 30.0, legend - 4.0)], colour);
        svg.text(LEFT + 36.0, legend, whose);
    }
    svg.end()
}

fn name(result: &Value) -> &str {
    result["workload"].as_str().unwrap_or("?")
}

/// An SVG being written. Writing to a `String` cannot fail.
struct Svg(String);

impl Svg {
    fn new(height: f64) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        ))
    }

    fn text(&mut self, x: f64, y: f64, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{INK}\">{text}</text>"
        );
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, height: f64) {
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{OURS}\" \
             fill-opacity=\"0.5\"/>"
        );
    }

    fn line(&mut self, points: &[(f64, f64)], colour: &str) {
        let points: String = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1} "))
            .collect();
        let _ = writeln!(
            self.0,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            points.trim_end()
        );
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ratio_becomes_a_bar_between_zero_and_the_largest() {
        let results = [json!({
            "workload": "a & b",
            "ratio": 1.0,
            "ratio_spread": { "min": 0.5, "max": 2.0 },
        })];
        let svg = ratios(&results);
        assert!(svg.contains(">a &amp; b</text>"), "{svg}");
        assert!(
            svg.contains("<rect x=\"210.0\" y=\"38.0\" width=\"265.0\""),
            "{svg}"
        );
        assert!(svg.contains("points=\"342.5,47.0 740.0,47.0\""), "{svg}");
    }

    #[test]
    fn only_a_result_with_windows_or_samples_has_a_course() {
        assert_eq!(course(&json!({ "workload": "drain", "ratio": 1.0 })), None);
        let windows = json!([{ "rate": 100.0 }, { "rate": 50.0 }]);
        let svg = course(&json!({ "ours_windows": windows, "bare_windows": windows }));
        let svg = svg.expect("it has windows");
        assert!(svg.contains("points=\"210.0,40.0 740.0,160.0\""), "{svg}");
        let svg = course(&json!({ "ours_samples": [5.0, 10.0] })).expect("it has samples");
        assert!(svg.contains("points=\"210.0,160.0 740.0,40.0\""), "{svg}");
        assert!(svg.contains(">10 MiB</text>"), "{svg}");
    }
}
