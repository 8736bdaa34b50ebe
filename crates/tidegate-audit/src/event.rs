//! The events of an audit. The content of each is derived from its publisher and its number, so every
//! receiver can check it, and only its seq has to be remembered.

use std::fmt::Write as _;

/// The number of services.
pub const SERVICES: usize = 16;

/// One event, identified by its publisher and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Planned {
    /// Its publisher.
    pub publisher: u32,
    /// Its number among the events of this publisher, from 0.
    pub number: u32,
}

impl Planned {
    /// The event as one number, never 0.
    pub fn code(self) -> u64 {
        (u64::from(self.publisher) + 1) << 32 | u64::from(self.number)
    }

    /// The event with this code.
    pub fn from_code(code: u64) -> Self {
        Self { publisher: ((code >> 32) as u32).wrapping_sub(1), number: code as u32 }
    }

    /// The event with this id. None if the id has another format.
    pub fn from_id(id: &str) -> Option<Self> {
        let (publisher, number) = id.strip_prefix('p')?.split_once('-')?;
        Some(Self { publisher: publisher.parse().ok()?, number: number.parse().ok()? })
    }

    /// Its id.
    pub fn id(self) -> String {
        format!("p{}-{}", self.publisher, self.number)
    }

    fn mixed(self) -> u64 {
        // The finalizer of SplitMix64: consecutive events get different services and sizes.
        let mut bits = self.code().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Its service.
    pub fn service(self) -> usize {
        (self.mixed() % SERVICES as u64) as usize
    }

    /// Appends its data: publisher, number, and padding of a length that depends on both.
    pub fn write_data(self, out: &mut String) {
        let padding = (self.mixed() >> 32) % 120;
        let _ = write!(out, "{{\"publisher\":{},\"number\":{},\"pad\":\"", self.publisher, self.number);
        out.extend((0..padding).map(|at| char::from(b'a' + (at % 26) as u8)));
        out.push_str("\"}");
    }

    /// Appends the event as JSON, as it is published.
    pub fn write_json(self, out: &mut String) {
        let _ = write!(
            out,
            "{{\"service\":\"{}\",\"event\":\"audit.made\",\"id\":\"{}\",\"data\":",
            service_name(self.service()),
            self.id()
        );
        self.write_data(out);
        out.push('}');
    }
}

/// The name of a service.
pub fn service_name(service: usize) -> String {
    format!("service-{service:02}")
}

/// The number of a service's name.
pub fn service_number(name: &str) -> Option<usize> {
    name.strip_prefix("service-")?.parse().ok().filter(|number| *number < SERVICES)
}

/// The services that a reader subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Services(u32);

impl Services {
    /// All services; the query then names none.
    pub const ALL: Self = Self(u32::MAX);

    /// The services with these numbers.
    pub fn of(numbers: impl IntoIterator<Item = usize>) -> Self {
        Self(numbers.into_iter().fold(0, |bits, number| bits | 1 << number))
    }

    /// Whether the service is included.
    pub fn admits(self, service: usize) -> bool {
        self.0 >> service & 1 == 1
    }

    /// The value of `services=`; empty for all.
    pub fn query(self) -> String {
        if self == Self::ALL {
            return String::new();
        }
        let names: Vec<String> =
            (0..SERVICES).filter(|number| self.admits(*number)).map(service_name).collect();
        names.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_found_again_by_its_id_and_by_its_code() {
        for (publisher, number) in [(0, 0), (3, 17), (99, u32::MAX)] {
            let planned = Planned { publisher, number };
            assert_eq!(Planned::from_id(&planned.id()), Some(planned));
            assert_eq!(Planned::from_code(planned.code()), planned);
            assert_ne!(planned.code(), 0);
        }
        for bad in ["", "p", "p1", "x1-2", "p1-2-3", "p-1", "p1-"] {
            assert_eq!(Planned::from_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn services_are_all_used_and_filters_name_them() {
        let used: std::collections::BTreeSet<usize> =
            (0..400).map(|number| Planned { publisher: 1, number }.service()).collect();
        assert_eq!(used.len(), SERVICES);
        let some = Services::of([3, 11]);
        assert_eq!(some.query(), "service-03,service-11");
        assert!(some.admits(3) && !some.admits(4));
        assert_eq!(Services::ALL.query(), "");
        assert_eq!(service_number("service-11"), Some(11));
        assert_eq!(service_number("service-16"), None);
    }
}
