//! "did you mean": the known name nearest to one that is not known. For publish bodies and for the server's
//! configuration.

/// No name that anybody means to write is longer.
const LENGTH_MAX: usize = 100;

/// The known name that was probably meant, if one is close enough to `wrong`.
pub fn closest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = names
        .filter_map(|name| Some((distance(wrong, name)?, name)))
        .min()
        .filter(|(steps, name)| *steps <= 1 + name.len().max(wrong.len()) / 5);
    near.map(|(_, name)| name)
}

/// The words `; did you mean ...?` if a known name is close enough to `wrong`, or nothing.
pub fn did_you_mean<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    closest(wrong, names).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Edits between two names: insert, remove, replace, or swap neighbours (optimal string alignment). `None` if
/// one has more than 100 bytes. It allocates nothing, so it can be asked about each name of a long body.
pub fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().max(b.len()) > LENGTH_MAX {
        return None;
    }
    // The row that is being filled, and the two before it.
    let (mut row, mut last, mut older) =
        ([0; LENGTH_MAX + 1], [0; LENGTH_MAX + 1], [0_usize; LENGTH_MAX + 1]);
    for (j, steps) in row.iter_mut().take(b.len() + 1).enumerate() {
        *steps = j;
    }
    for i in 1..=a.len() {
        std::mem::swap(&mut older, &mut last);
        std::mem::swap(&mut last, &mut row);
        row[0] = i;
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut steps = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                steps = steps.min(older[j - 2] + 1);
            }
            row[j] = steps;
        }
    }
    Some(row[b.len()])
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

    #[test]
    fn edits_are_counted() {
        for (a, b, steps) in [
            ("", "", 0),
            ("", "users", 5),
            ("users", "", 5),
            ("users", "users", 0),
            ("usres", "users", 1),
            ("user", "users", 1),
            ("userids", "users", 2),
            ("usser", "users", 2),
            ("others", "users", 3),
            ("data", "users", 5),
        ] {
            assert_eq!(distance(a, b), Some(steps), "{a} {b}");
        }
        assert_eq!(distance(&"x".repeat(100), &"y".repeat(100)), Some(100));
        assert_eq!(distance(&"x".repeat(101), "x"), None);
    }
}
