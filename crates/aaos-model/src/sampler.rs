//! Chooses the next token.
//!
//! Invariants: only a token that is allowed and has a finite number is chosen; the same numbers, seed and order of
//! choices give the same tokens.

use crate::error::AnswerError;
use crate::tokens::Token;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// Always the one with the largest number, the first of equal ones.
    Greedy,
    /// By chance: the larger the number beside the others, the likelier.
    Chance {
        /// Above 0; at 1 as likely as the model says, below it the likely become likelier.
        temperature: f32,
        /// Where the chances begin.
        seed: u64,
    },
}

/// Chooses tokens for one reply.
#[derive(Debug, Clone)]
pub struct Sampler {
    choice: Choice,
    state: u64,
}

impl Sampler {
    /// Begins a reply.
    #[must_use]
    pub fn new(choice: Choice) -> Self {
        let state = match choice {
            Choice::Greedy => 0,
            Choice::Chance { seed, .. } => seed,
        };
        Self { choice, state }
    }

    /// Chooses among the tokens that `allowed` says yes to. `scores` has a number for each token.
    ///
    /// # Errors
    /// [`AnswerError::NotFinite`] when no allowed token has a number.
    pub fn choose(&mut self, scores: &[f32], allowed: impl Fn(Token) -> bool) -> Result<Token, AnswerError> {
        let open = || {
            (0_u32..)
                .zip(scores)
                .filter(|(number, score)| score.is_finite() && allowed(Token(*number)))
                .map(|(number, score)| (Token(number), *score))
        };
        let best = open().reduce(|best, one| if one.1 > best.1 { one } else { best });
        let (best, top) = best.ok_or(AnswerError::NotFinite)?;
        let Choice::Chance { temperature, .. } = self.choice else {
            return Ok(best);
        };
        let weight = |score: f32| f64::from((score - top) / temperature.max(f32::MIN_POSITIVE)).exp();
        let sum: f64 = open().map(|(_, score)| weight(score)).sum();
        let mut left = self.chance() * sum;
        for (token, score) in open() {
            left -= weight(score);
            if left < 0.0 {
                return Ok(token);
            }
        }
        Ok(best)
    }

    /// A number from 0 to below 1, by `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
    fn chance(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::{Choice, Sampler};
    use crate::error::AnswerError;
    use crate::tokens::Token;

    const SCORES: [f32; 5] = [1.0, f32::NAN, 3.0, f32::INFINITY, 2.0];

    #[test]
    fn the_greedy_choice_is_the_largest_finite_number_that_is_allowed() {
        let mut sampler = Sampler::new(Choice::Greedy);
        assert_eq!(sampler.choose(&SCORES, |_| true).expect("some"), Token(2));
        assert_eq!(sampler.choose(&SCORES, |one| one != Token(2)).expect("some"), Token(4));
        assert!(matches!(sampler.choose(&SCORES, |_| false), Err(AnswerError::NotFinite)));
        assert!(matches!(sampler.choose(&SCORES, |one| one == Token(1)), Err(AnswerError::NotFinite)));
        assert_eq!(sampler.choose(&[5.0, 5.0], |_| true).expect("some"), Token(0), "the first of equal ones");
    }

    #[test]
    fn chance_follows_the_seed_and_the_numbers() {
        let draw = |seed, temperature| {
            let mut sampler = Sampler::new(Choice::Chance { temperature, seed });
            (0..2_000).map(|_| sampler.choose(&SCORES, |_| true).expect("some").0).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 1.0), draw(7, 1.0));
        assert_ne!(draw(7, 1.0), draw(8, 1.0));
        let share = |drawn: &[u32], token| drawn.iter().filter(|one| **one == token).count();
        let drawn = draw(7, 1.0);
        // Shares of e^1 : e^3 : e^2 of 2,000 are 180, 1,331 and 490.
        assert!((140..220).contains(&share(&drawn, 0)), "{}", share(&drawn, 0));
        assert!((1_270..1_390).contains(&share(&drawn, 2)), "{}", share(&drawn, 2));
        assert!((430..550).contains(&share(&drawn, 4)), "{}", share(&drawn, 4));
        assert!(share(&draw(7, 0.05), 2) == 2_000, "cold, the likeliest is all that is chosen");
    }
}
