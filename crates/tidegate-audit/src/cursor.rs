//! Cursors: positions in a log, in the gateway's format (R4).

/// A cursor with its three parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch of the log.
    pub epoch: String,
    /// The seq.
    pub seq: u64,
    /// The filter's tag. The cursor of a publish response has none.
    pub tag: Option<String>,
}

impl Cursor {
    /// Parses `<epoch>-<seq>[-<tag>]`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let is_word = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        };
        let epoch = parts.next().filter(|text| is_word(text))?.to_owned();
        let digits = parts.next().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        let seq = digits.parse().ok().filter(|seq| *seq < 1 << 53)?;
        let tag = match parts.next() {
            None => None,
            Some(tag) => Some(Some(tag).filter(|text| is_word(text))?.to_owned()),
        };
        parts.next().is_none().then_some(Self { epoch, seq, tag })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, "-{tag}"))
    }
}
