//! From a long case that fails to a short one.

/// Leaves out what a failure does not need: halves first, single items last
/// (after delta debugging, Zeller and Hildebrandt 2002). `case` fails; `fails`
/// says whether a shorter one does.
///
/// # Errors
/// Those of `fails`.
pub fn leave_out<T: Clone, E>(
    mut case: Vec<T>,
    mut fails: impl FnMut(&[T]) -> Result<bool, E>,
) -> Result<Vec<T>, E> {
    let mut chunk = case.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < case.len() {
            let mut without = case.clone();
            without.drain(at..case.len().min(at + chunk));
            if fails(&without)? {
                case = without;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 {
            return Ok(case);
        }
        chunk = chunk.div_ceil(2);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn shortest(len: u32, needed: &[u32]) -> (Vec<u32>, u32) {
        let mut tries = 0;
        let fails = |case: &[u32]| {
            tries += 1;
            Ok::<_, Infallible>(needed.iter().all(|item| case.contains(item)))
        };
        let Ok(case) = leave_out((0..len).collect(), fails);
        (case, tries)
    }

    #[test]
    fn what_is_needed_stays_in_its_order() {
        for needed in [&[][..], &[0], &[99], &[50], &[3, 4], &[0, 17, 64, 99]] {
            let (case, tries) = shortest(100, needed);
            assert_eq!(case, needed);
            assert!(tries < 100, "{tries} tries");
        }
        let all: Vec<_> = (0..7).collect();
        assert_eq!(shortest(7, &all).0, all);
        assert_eq!(shortest(0, &[]), (Vec::new(), 0));
        assert_eq!(shortest(1, &[]), (Vec::new(), 1));
    }

    #[test]
    fn an_error_ends_it() {
        let mut tries = 0;
        let fails = |_: &[u8]| {
            tries += 1;
            Err("the kernel refused")
        };
        assert_eq!(leave_out(vec![1, 2, 3], fails), Err("the kernel refused"));
        assert_eq!(tries, 1);
    }
}
