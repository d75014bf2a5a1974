//! Texts of words that are as common as words are: the n-th has a share of about 1/n^1.05, so that in texts of 40 words
//! one is in 99 % of them and another in half. The same number gives the same text, in every peer.

/// Words that there are.
const WORDS: usize = 50_000;
const CONSONANTS: &[u8; 20] = b"bcdfghjklmnpqrstvwxz";
const VOWELS: &[u8; 5] = b"aeiou";

/// Makes texts.
pub struct Texts {
    words: Vec<String>,
    /// Which share the words up to each one have.
    through: Vec<f64>,
}

impl Default for Texts {
    fn default() -> Self {
        let mut sum = 0.0;
        let mut through: Vec<f64> = (1..=WORDS).map(|n| (sum += (n as f64).powf(-1.05), sum).1).collect();
        through.iter_mut().for_each(|share| *share /= sum);
        Self { words: (0..WORDS).map(word).collect(), through }
    }
}

impl Texts {
    /// The word that is the n-th in how common it is, from 1.
    pub fn word(&self, rank: usize) -> &str {
        &self.words[rank - 1]
    }

    /// This many words.
    pub fn of_words(&self, number: u64, words: usize) -> String {
        let mut random = Random::new(number);
        let mut text = String::with_capacity(words * 7);
        for _ in 0..words {
            text.push_str(self.any(&mut random));
            text.push(' ');
        }
        text.pop();
        text
    }

    /// Words of 1 KiB.
    pub fn of_a_kib(&self, number: u64) -> String {
        let mut random = Random::new(number);
        let mut text = String::with_capacity(1040);
        while text.len() < 1024 {
            text.push_str(self.any(&mut random));
            text.push(' ');
        }
        text.truncate(1024);
        text
    }

    fn any(&self, random: &mut Random) -> &str {
        let at = random.share();
        &self.words[self.through.partition_point(|share| *share < at).min(WORDS - 1)]
    }
}

/// Two syllables and more, and a letter: words that begin alike are one common word and some rare ones.
fn word(number: usize) -> String {
    let syllable = |n: usize| [CONSONANTS[n % 20], VOWELS[n / 20 % 5]];
    let mut letters = [syllable(number % 100), syllable(number / 100 % 100)].concat();
    if number >= 10_000 {
        letters.extend(syllable(number / 10_000));
    }
    letters.push(CONSONANTS[number % 7]);
    letters.into_iter().map(char::from).collect()
}

/// Numbers without an order, always the same for a seed: SplitMix64.
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number, below this one.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.share() * bound as f64) as usize
    }

    /// The next number, from 0 to 1.
    fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_common_as_they_should_be() {
        let texts = Texts::default();
        let share = |rank: usize| {
            let has = |n: &u64| texts.of_words(*n, 40).split(' ').any(|word| word == texts.word(rank));
            (0..400).filter(has).count() as f64 / 400.0
        };
        assert!(share(1) > 0.98, "{}", share(1));
        assert!((0.4..0.6).contains(&share(6)), "{}", share(6));
        assert!(share(10_000) < 0.01, "{}", share(10_000));
    }

    #[test]
    fn words_differ_and_a_text_is_always_the_same() {
        let texts = Texts::default();
        let different: std::collections::HashSet<_> = texts.words.iter().collect();
        assert_eq!(different.len(), WORDS);
        assert_eq!(texts.of_a_kib(7), Texts::default().of_a_kib(7));
        assert_ne!(texts.of_a_kib(7), texts.of_a_kib(8));
        assert_eq!(texts.of_a_kib(7).len(), 1024);
    }
}
