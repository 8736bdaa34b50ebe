//! When each event is due. The schedule is fixed before the run and does not wait for the server: if a server
//! is slow, the delayed event and all events after it count their full delay. A load that waits for the
//! server would leave that delay out of its latencies ("coordinated omission", Gil Tene).

use std::time::Duration;

/// How events are distributed over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Publishers take turns, at even intervals
    Even,
    /// All publishers at the same moment
    Together,
}

/// The schedule of one phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Events per second over all publishers. If none, each publisher publishes as soon as it has its
    /// response.
    pub rate: Option<f64>,
    pub arrivals: Arrivals,
    /// The number of publishers.
    pub publishers: u16,
    /// The duration of the phase: no event is due after it.
    pub window: Duration,
    /// The maximum number of events of each publisher.
    pub each_max: u32,
}

impl Schedule {
    /// When a publisher's event is due, in microseconds from the start. None after the window's end. Without
    /// a rate, every event is due immediately.
    pub fn due_us(&self, publisher: u16, number: u32) -> Option<u64> {
        if number >= self.each_max {
            return None;
        }
        let Some(rate) = self.rate else { return Some(0) };
        let publishers = f64::from(self.publishers);
        let offset = match self.arrivals {
            Arrivals::Even => f64::from(publisher),
            Arrivals::Together => 0.0,
        };
        let seconds = (f64::from(number) * publishers + offset) / rate;
        (seconds < self.window.as_secs_f64()).then_some((seconds * 1e6) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: f64, arrivals: Arrivals) -> Schedule {
        Schedule {
            rate: Some(rate),
            arrivals,
            publishers: 4,
            window: Duration::from_secs(2),
            each_max: u32::MAX,
        }
    }

    #[test]
    fn publishers_take_turns() {
        let even = schedule(1000.0, Arrivals::Even);
        let mut due: Vec<_> = (0..4).flat_map(|p| (0..500).filter_map(move |n| even.due_us(p, n))).collect();
        due.sort_unstable();
        assert_eq!(due.len(), 2000);
        assert!(
            due.windows(2).all(|pair| (999..=1001).contains(&(pair[1] - pair[0]))),
            "one each millisecond"
        );
        assert_eq!(even.due_us(0, 500), None, "the window is over");
    }

    #[test]
    fn or_go_together() {
        let together = schedule(1000.0, Arrivals::Together);
        for number in [0, 1, 499] {
            let due: Vec<_> = (0..4).map(|p| together.due_us(p, number)).collect();
            assert_eq!(due, [Some(u64::from(number) * 4000); 4]);
        }
        assert_eq!(together.due_us(0, 500), None);
    }

    #[test]
    fn a_bound_on_each_and_no_rate() {
        let bounded = Schedule { each_max: 3, ..schedule(1000.0, Arrivals::Even) };
        assert_eq!((bounded.due_us(1, 2), bounded.due_us(1, 3)), (Some(9000), None));
        let closed = Schedule { rate: None, ..bounded };
        assert_eq!((closed.due_us(1, 2), closed.due_us(1, 3)), (Some(0), None));
    }
}
