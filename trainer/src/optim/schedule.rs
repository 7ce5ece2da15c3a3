//! The learning rate's course: a pure function of the step.

use std::f64::consts::PI;

use super::Result;
use super::config::check;
use crate::config::{choice, section};

choice! {
    /// The shape after warm-up.
    pub enum ScheduleKind {
        /// Stays at the peak.
        Constant = "constant",
        /// A straight line down to the floor at the last step.
        Linear = "linear",
        /// Half a cosine down to the floor at the last step.
        Cosine = "cosine",
        /// Falls with the root of the step, √(warmup_steps / step), whatever the last step.
        InverseSqrt = "inverse_sqrt",
    }
}

section! {
    /// The learning rate's course, as a factor on every group's peak.
    pub struct Schedule {
        /// The shape after warm-up.
        pub kind: ScheduleKind = ScheduleKind::Cosine,
        /// Steps of linear warm-up; the peak is reached in the last of them.
        pub warmup_steps: u64 = 0,
        /// The factor does not fall below this share of the peak after warm-up.
        pub floor: f64 = 0.0,
    }
}

impl Schedule {
    /// Errors on values outside their range.
    pub fn validate(&self) -> Result<()> {
        check("schedule.floor", self.floor, "a number in [0, 1]", |v| (0.0..=1.0).contains(&v))
    }

    /// What the peak learning rate is multiplied by in step `step` (from 0) of `total_steps`.
    pub fn factor(&self, step: u64, total_steps: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let falling = total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / falling as f64).min(1.0);
        let between = |share: f64| self.floor + (1.0 - self.floor) * share;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => between(1.0 - progress),
            ScheduleKind::Cosine => between(0.5 * (1.0 + (PI * progress).cos())),
            ScheduleKind::InverseSqrt => (self.warmup_steps.max(1) as f64 / (step + 1) as f64).sqrt().max(self.floor),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn factors(kind: ScheduleKind, floor: f64, steps: &[u64]) -> Vec<f64> {
        let schedule = Schedule { kind, warmup_steps: 4, floor };
        steps.iter().map(|&s| schedule.factor(s, 12)).collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= 1e-15, "{got:?} against {want:?}");
        }
    }

    #[test]
    fn warm_up_is_linear_and_never_zero() {
        close(&factors(ScheduleKind::Cosine, 0.1, &[0, 1, 2, 3, 4]), &[0.25, 0.5, 0.75, 1.0, 1.0]);
    }

    #[test]
    fn constant() {
        close(&factors(ScheduleKind::Constant, 0.5, &[3, 4, 11, 500]), &[1.0; 4]);
    }

    #[test]
    fn linear_ends_at_the_floor() {
        close(&factors(ScheduleKind::Linear, 0.0, &[4, 8, 11, 12, 500]), &[1.0, 0.5, 0.125, 0.0, 0.0]);
        close(&factors(ScheduleKind::Linear, 0.2, &[8, 12]), &[0.6, 0.2]);
    }

    #[test]
    fn cosine_ends_at_the_floor() {
        close(
            &factors(ScheduleKind::Cosine, 0.0, &[4, 6, 8, 12, 500]),
            &[1.0, 0.5 + 0.5f64.sqrt() / 2.0, 0.5, 0.0, 0.0],
        );
        close(&factors(ScheduleKind::Cosine, 0.2, &[8, 12]), &[0.6, 0.2]);
    }

    #[test]
    fn inverse_sqrt_continues_warm_up_without_a_jump() {
        close(&factors(ScheduleKind::InverseSqrt, 0.0, &[3, 15, 63]), &[1.0, 0.5, 0.25]);
        close(&factors(ScheduleKind::InverseSqrt, 0.4, &[63]), &[0.4]);
    }

    #[test]
    fn no_warm_up_and_all_warm_up() {
        let schedule = Schedule { kind: ScheduleKind::Linear, warmup_steps: 0, floor: 0.0 };
        assert_eq!(schedule.factor(0, 10), 1.0);
        let schedule = Schedule { kind: ScheduleKind::Linear, warmup_steps: 10, floor: 0.0 };
        assert_eq!(schedule.factor(9, 10), 1.0);
        assert_eq!(schedule.factor(0, 0), 0.1);
    }

    #[test]
    fn toml_names() {
        let schedule: Schedule = toml::from_str("kind = \"inverse_sqrt\"\nwarmup_steps = 10").unwrap();
        assert_eq!(schedule.kind, ScheduleKind::InverseSqrt);
        schedule.validate().unwrap();
        let bad: Schedule = toml::from_str("floor = 1.5").unwrap();
        assert_eq!(bad.validate().unwrap_err().to_string(), "`schedule.floor`: expected a number in [0, 1], found 1.5");
    }
}
