//! Plots as SVG, written by hand: only two kinds are needed, and they follow the light or dark colour scheme
//! of the page, which plotting libraries do not do.

use std::fmt::Write as _;

use crate::result::short;

const WIDTH: f64 = 720.0;
/// The right end of the longest bar; its number follows.
const RIGHT: f64 = 630.0;
const FONT: &str = "13px system-ui, -apple-system, 'Segoe UI', sans-serif";

/// The colours, for light and dark pages.
const STYLE: &str = "
  text { fill: #24292f; font: FONT; }
  .title { font-weight: 600; }
  .faint { fill: #6e7781; }
  .rule { stroke: #d0d7de; }
  .ours { fill: #0969da; }
  .other { fill: #8c959f; }
  .c0 { stroke: #0969da; fill: #0969da; } .c1 { stroke: #bf8700; fill: #bf8700; }
  .c2 { stroke: #1a7f37; fill: #1a7f37; } .c3 { stroke: #8250df; fill: #8250df; }
  .c4 { stroke: #cf222e; fill: #cf222e; } .c5 { stroke: #1b7c83; fill: #1b7c83; }
  .c6 { stroke: #bf3989; fill: #bf3989; } .c7 { stroke: #57606a; fill: #57606a; }
  .c8 { stroke: #bc4c00; fill: #bc4c00; } .c9 { stroke: #54aeff; fill: #54aeff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .faint { fill: #9198a1; }
    .rule { stroke: #3d444d; }
    .ours { fill: #4493f8; }
    .other { fill: #7d8590; }
    .c0 { stroke: #4493f8; fill: #4493f8; } .c1 { stroke: #d29922; fill: #d29922; }
    .c2 { stroke: #3fb950; fill: #3fb950; } .c3 { stroke: #ab7df8; fill: #ab7df8; }
    .c4 { stroke: #f85149; fill: #f85149; } .c5 { stroke: #39c5cf; fill: #39c5cf; }
    .c6 { stroke: #f778ba; fill: #f778ba; } .c7 { stroke: #9198a1; fill: #9198a1; }
    .c8 { stroke: #db6d28; fill: #db6d28; } .c9 { stroke: #a5d6ff; fill: #a5d6ff; }
  }
";

fn svg(height: f64, title: &str, body: &str) -> String {
    let style = STYLE.replace("FONT", FONT);
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>{style}</style>\n<text class=\"title\" x=\"12\" y=\"24\">{title}</text>\n{body}</svg>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One bar.
#[derive(Debug)]
pub struct Bar {
    /// The heading of its group; empty for none. Bars of a group need not be adjacent.
    pub group: String,
    pub name: String,
    pub value: f64,
    /// Text after the value.
    pub mark: &'static str,
    pub ours: bool,
}

/// Horizontal bars in groups.
#[derive(Debug)]
pub struct Bars {
    pub title: String,
    pub unit: &'static str,
    /// Whether the scale is logarithmic if values differ by orders of magnitude.
    pub log: bool,
    pub bars: Vec<Bar>,
}

impl Bars {
    /// The plot.
    pub fn svg(&self) -> String {
        let values = || self.bars.iter().map(|bar| bar.value).filter(|value| *value > 0.0);
        let most = values().fold(f64::MIN_POSITIVE, f64::max);
        let least = values().fold(most, f64::min);
        // A logarithmic scale begins at a power of ten below the smallest value.
        let log = self.log && most / least > 5.0;
        let floor = 10f64.powf((least / 1.5).log10().floor());
        // Bars begin after the longest name, at the maximum width of its letters.
        let letters = self.bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
        let left = (letters as f64 * 7.5 + 24.0).clamp(120.0, 360.0);
        let length = |value: f64| {
            let share = match log {
                true if value > 0.0 => (value / floor).log10() / (most / floor).log10(),
                _ => value / most,
            };
            share.clamp(0.0, 1.0) * (RIGHT - left)
        };
        let (mut body, mut y, mut group) = (String::new(), 40.0, None);
        for bar in self.by_group() {
            if group != Some(&bar.group) && !bar.group.is_empty() {
                y += 10.0;
                let _ = writeln!(
                    body,
                    "<text class=\"faint\" x=\"12\" y=\"{:.0}\">{}</text>",
                    y + 14.0,
                    escaped(&bar.group)
                );
                y += 24.0;
                group = Some(&bar.group);
            }
            let class = if bar.ours { "ours" } else { "other" };
            let (end, text_y) = (length(bar.value).max(1.0), y + 13.0);
            let _ = writeln!(
                body,
                "<text x=\"{:.0}\" y=\"{text_y:.0}\" text-anchor=\"end\">{}</text><rect class=\"{class}\" x=\"{left:.0}\" y=\"{y:.0}\" width=\"{end:.1}\" height=\"16\" rx=\"2\"/><text x=\"{:.1}\" y=\"{text_y:.0}\">{} {} {}</text>",
                left - 8.0,
                escaped(&bar.name),
                left + end + 6.0,
                short(bar.value),
                self.unit,
                bar.mark
            );
            y += 22.0;
        }
        let scale = if log { ", logarithmic" } else { "" };
        svg(y + 12.0, &format!("{}, {}{scale}", self.title, self.unit), &body)
    }

    /// The bars with those of a group together; groups are in the order of their first bars.
    fn by_group(&self) -> Vec<&Bar> {
        let mut groups: Vec<&str> = Vec::new();
        for bar in &self.bars {
            if !groups.contains(&bar.group.as_str()) {
                groups.push(&bar.group);
            }
        }
        groups.iter().flat_map(|group| self.bars.iter().filter(move |bar| bar.group == *group)).collect()
    }
}

/// A round step (1, 2 or 5 times a power of ten) of which at most five reach `most`.
fn round_step(most: f64) -> f64 {
    let power = 10f64.powf((most / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| step * 5.0 >= most)
        .unwrap_or(most)
}

/// One line.
#[derive(Debug)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Lines over seconds, from zero.
#[derive(Debug)]
pub struct Lines {
    pub title: String,
    pub unit: &'static str,
    pub lines: Vec<Line>,
}

impl Lines {
    /// The plot; none if there are no points.
    pub fn svg(&self) -> Option<String> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let last = points().map(|(x, _)| *x).reduce(f64::max)?.max(0.001);
        let step = round_step(points().map(|(_, y)| *y).reduce(f64::max)?.max(0.001));
        let steps = (points().map(|(_, y)| *y).fold(0.0, f64::max) / step).ceil().max(1.0) as u32;
        let most = step * f64::from(steps);
        let (left, right, top, bottom) = (70.0, WIDTH - 20.0, 44.0, 260.0);
        let (mut body, x_of) = (String::new(), |x: f64| left + x / last * (right - left));
        let y_of = |y: f64| bottom - y / most * (bottom - top);
        for line in 0..=steps {
            let value = step * f64::from(line);
            let y = y_of(value);
            let _ = writeln!(
                body,
                "<line class=\"rule\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/><text class=\"faint\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                y + 4.0,
                short(value)
            );
        }
        let _ = writeln!(
            body,
            "<text class=\"faint\" x=\"{left}\" y=\"{:.0}\">0</text><text class=\"faint\" x=\"{right}\" y=\"{:.0}\" text-anchor=\"end\">{} s</text>",
            bottom + 18.0,
            bottom + 18.0,
            short(last)
        );
        // Names are below, in columns if there are many.
        let columns = if self.lines.len() > 4 { 4 } else { 1 };
        let width = if columns > 1 { 1.5 } else { 2.0 };
        let (mut y, mut column) = (bottom + 40.0, 0);
        for (index, line) in self.lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()) {
            let class = format!("c{}", index % 10);
            let x = left + f64::from(column) * (right - left) / f64::from(columns);
            let points: Vec<_> =
                line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
            let _ = writeln!(
                body,
                "<polyline class=\"{class}\" style=\"fill:none;stroke-width:{width}\" points=\"{}\"/><rect class=\"{class}\" x=\"{x:.0}\" y=\"{:.0}\" width=\"12\" height=\"12\" rx=\"2\"/><text x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
                points.join(" "),
                y - 11.0,
                x + 18.0,
                escaped(&line.name)
            );
            column = (column + 1) % columns;
            if column == 0 {
                y += 20.0;
            }
        }
        if column > 0 {
            y += 20.0;
        }
        let unit = if self.unit.is_empty() { String::new() } else { format!(", {}", self.unit) };
        Some(svg(y, &format!("{}{unit}", self.title), &body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(svg: &str) -> Vec<f64> {
        let parts = svg.split("width=\"").skip(2);
        parts.filter_map(|part| part.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |name: &str, value| Bar {
            group: "g <1>".into(),
            name: name.into(),
            value,
            mark: "",
            ours: name == "a",
        };
        let bars =
            |log| Bars { title: "t".into(), unit: "us", log, bars: vec![bar("a", 1.0), bar("b", 4.0)] };
        let plain = bars(false).svg();
        let found = widths(&plain);
        assert!((found[1] / found[0] - 4.0).abs() < 0.01, "{found:?}");
        assert!(plain.contains("g &lt;1&gt;") && plain.contains("prefers-color-scheme"));
        // Values that are close stay linear.
        assert_eq!(widths(&bars(true).svg()), found);
        let wide =
            Bars { title: "t".into(), unit: "us", log: true, bars: vec![bar("a", 0.1), bar("b", 100.0)] };
        let found = widths(&wide.svg());
        assert!(found[0] > 30.0, "the smallest value is visible: {found:?}");
    }

    #[test]
    fn a_group_stands_together() {
        let bar = |group: &str, name: &str| Bar {
            group: group.into(),
            name: name.into(),
            value: 1.0,
            mark: "",
            ours: true,
        };
        let bars = vec![bar("g", "a"), bar("h", "a"), bar("g", "b"), bar("h", "b")];
        let bars = Bars { title: "t".into(), unit: "us", log: false, bars };
        let order: Vec<_> =
            bars.by_group().iter().map(|bar| (bar.group.as_str(), bar.name.as_str())).collect();
        assert_eq!(order, [("g", "a"), ("g", "b"), ("h", "a"), ("h", "b")]);
        assert_eq!(bars.svg().matches("class=\"faint\"").count(), 2, "a heading each");
    }

    #[test]
    fn axes_have_round_numbers() {
        for (most, step) in [(0.9, 0.2), (4.0, 1.0), (5.9, 2.0), (22.3, 5.0), (399.0, 100.0)] {
            let found = round_step(most);
            assert!((found - step).abs() < 1e-9, "{found} for {most}");
        }
    }

    #[test]
    fn lines_need_points() {
        let line = |points: Vec<(f64, f64)>| Line { name: "n".into(), points };
        let lines = |points| Lines { title: "t".into(), unit: "MiB", lines: vec![line(points)] }.svg();
        assert_eq!(lines(vec![]), None);
        let svg = lines(vec![(0.0, 1.0), (10.0, 2.0)]).expect("a plot");
        assert!(svg.contains("points=\"70.0,") && svg.contains("10.0 s"));
    }
}
