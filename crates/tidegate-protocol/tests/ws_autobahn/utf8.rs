//! The octets of Autobahn's cases 6.5 to 6.23, for the most part those of Markus Kuhn's UTF-8
//! decoder stress test.

/// A section of cases: what it is about, and its octets with whether they are UTF-8.
pub struct Group {
    pub section: u32,
    pub about: &'static str,
    pub vectors: Vec<(bool, Vec<u8>)>,
}

/// A word of Greek: `κόσμε`.
pub const KOSME: &[u8] = b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5";

/// One octet short of the longest forms, and of the shortest overlong ones.
const CUT_SHORT: [&[u8]; 10] = [
    b"\xC0",
    b"\xE0\x80",
    b"\xF0\x80\x80",
    b"\xF8\x80\x80\x80",
    b"\xFC\x80\x80\x80\x80",
    b"\xDF",
    b"\xEF\xBF",
    b"\xF7\xBF\xBF",
    b"\xFB\xBF\xBF\xBF",
    b"\xFD\xBF\xBF\xBF\xBF",
];

pub fn groups() -> Vec<Group> {
    let group = |section, about, valid, vectors: &[&[u8]]| Group {
        section,
        about,
        vectors: vectors.iter().map(|octets| (valid, octets.to_vec())).collect(),
    };
    let mut groups = vec![
        group(
            5,
            "valid text",
            true,
            &[
                b"hello$world",
                b"hello\xC2\xA2world",
                b"hello\xE2\x82\xACworld",
                b"hello\xF0\xA4\xAD\xA2world",
                KOSME,
            ],
        ),
        Group {
            section: 6,
            about: "prefixes of valid text",
            vectors: (1..=KOSME.len())
                .map(|end| ([2, 5, 7, 9, 11].contains(&end), KOSME[..end].to_vec()))
                .collect(),
        },
        group(7, "first of each length", true, &[b"\0", b"\xC2\x80", b"\xE0\xA0\x80", b"\xF0\x90\x80\x80"]),
        group(8, "first of lengths 5 and 6", false, &[b"\xF8\x88\x80\x80\x80", b"\xFC\x84\x80\x80\x80\x80"]),
        group(9, "last of each length", true, &[b"\x7F", b"\xDF\xBF", b"\xEF\xBF\xBF", b"\xF4\x8F\xBF\xBF"]),
        group(
            10,
            "last of lengths 4 to 6",
            false,
            &[b"\xF7\xBF\xBF\xBF", b"\xFB\xBF\xBF\xBF\xBF", b"\xFD\xBF\xBF\xBF\xBF\xBF"],
        ),
        group(
            11,
            "boundaries",
            true,
            &[b"\xED\x9F\xBF", b"\xEE\x80\x80", b"\xEF\xBF\xBD", b"\xF4\x8F\xBF\xBF"],
        ),
        group(
            12,
            "continuations alone",
            false,
            &[
                b"\x80",
                b"\xBF",
                b"\x80\xBF",
                b"\x80\xBF\x80",
                b"\x80\xBF\x80\xBF",
                b"\x80\xBF\x80\xBF\x80",
                b"\x80\xBF\x80\xBF\x80\xBF",
            ],
        ),
        Group {
            section: 13,
            about: "starts alone",
            vectors: [(0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD)]
                .map(|(from, to): (u8, u8)| (false, (from..to).flat_map(|start| [start, b' ']).collect()))
                .to_vec(),
        },
        group(14, "last continuation missing", false, &CUT_SHORT),
        group(15, "incomplete sequences in a row", false, &[&CUT_SHORT.concat()]),
        group(16, "impossible octets", false, &[b"\xFE", b"\xFF", b"\xFE\xFE\xFF\xFF"]),
        group(
            17,
            "overlong ASCII",
            false,
            &[
                b"\xC0\xAF",
                b"\xE0\x80\xAF",
                b"\xF0\x80\x80\xAF",
                b"\xF8\x80\x80\x80\xAF",
                b"\xFC\x80\x80\x80\x80\xAF",
            ],
        ),
        group(
            18,
            "longest overlong forms",
            false,
            &[
                b"\xC1\xBF",
                b"\xE0\x9F\xBF",
                b"\xF0\x8F\xBF\xBF",
                b"\xF8\x87\xBF\xBF\xBF",
                b"\xFC\x83\xBF\xBF\xBF\xBF",
            ],
        ),
        group(
            19,
            "overlong NUL",
            false,
            &[
                b"\xC0\x80",
                b"\xE0\x80\x80",
                b"\xF0\x80\x80\x80",
                b"\xF8\x80\x80\x80\x80",
                b"\xFC\x80\x80\x80\x80\x80",
            ],
        ),
        group(
            20,
            "surrogates alone",
            false,
            &[
                b"\xED\xA0\x80",
                b"\xED\xAD\xBF",
                b"\xED\xAE\x80",
                b"\xED\xAF\xBF",
                b"\xED\xB0\x80",
                b"\xED\xBE\x80",
                b"\xED\xBF\xBF",
            ],
        ),
        Group {
            section: 21,
            about: "surrogates in pairs",
            vectors: [[0xA0, 0x80], [0xAD, 0xBF], [0xAE, 0x80], [0xAF, 0xBF]]
                .iter()
                .flat_map(|high| {
                    [[0xB0, 0x80], [0xBF, 0xBF]]
                        .map(|low| (false, [&[0xED], &high[..], &[0xED], &low[..]].concat()))
                })
                .collect(),
        },
        Group {
            section: 22,
            about: "non-characters, which are valid",
            // The last two of plane 0, then of each plane from 1 to 16.
            vectors: (0..=16u32)
                .flat_map(|plane| [0xFFFE, 0xFFFF].map(|last| plane << 16 | last))
                .map(|point| (true, char::from_u32(point).expect("a scalar value").to_string().into_bytes()))
                .collect(),
        },
        group(
            23,
            "specials",
            true,
            &[
                b"\xEF\xBF\xB9",
                b"\xEF\xBF\xBA",
                b"\xEF\xBF\xBB",
                b"\xEF\xBF\xBC",
                b"\xEF\xBF\xBD",
                b"\xEF\xBF\xBE",
                b"\xEF\xBF\xBF",
            ],
        ),
    ];
    // Among the boundaries is the one past the last code point.
    groups[6].vectors.push((false, b"\xF4\x90\x80\x80".to_vec()));
    // All continuations but the last.
    groups[7].vectors.push((false, (0x80..0xBF).collect()));
    groups
}
