//! "did you mean": the known name nearest to one that is not known.

/// The words `; did you mean ...?` if a known name is close enough to `name`, or nothing.
pub fn did_you_mean<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    let near = names
        .map(|name| (distance(wrong, name), name))
        .min()
        .filter(|(steps, name)| *steps <= 1 + name.len().max(wrong.len()) / 5);
    near.map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}

/// Edits between two names: insert, remove, replace, or swap neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // A name that long is no slip of ours, and the table below is quadratic.
    if a.len().max(b.len()) > 100 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut steps = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                steps = steps.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = steps;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_name_and_strangers_find_none() {
        let names = || ["log.retention", "log.engine", "limits.connections"].into_iter();
        assert_eq!(did_you_mean("log.retenton", names()), "; did you mean `log.retention`?");
        assert_eq!(did_you_mean("log.egnine", names()), "; did you mean `log.engine`?");
        assert_eq!(did_you_mean("limit.connections", names()), "; did you mean `limits.connections`?");
        assert_eq!(did_you_mean("colour", names()), "");
        assert_eq!(did_you_mean(&"x".repeat(500), names()), "");
    }
}
