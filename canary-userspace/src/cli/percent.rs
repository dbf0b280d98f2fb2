//! Shares as people write them.

use canary_common::{MAX_SPLIT, Split};

/// Digits after the point that still make a difference: 2^-32 is 2.3e-8 %.
const MAX_DECIMALS: usize = 12;

/// "5%", "5", "0.1 %": the nearest split, computed in whole numbers, so that
/// 1 % is the same on every machine.
///
/// # Errors
/// What to write instead.
pub fn parse_split(text: &str) -> Result<Split, String> {
    let wrong = || {
        format!("{text:?} is no share; write a percentage from 0 to 100, for example 5% or 0.1%")
    };
    let number = text.trim().strip_suffix('%').unwrap_or(text.trim()).trim();
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let sound = digits(whole)
        && digits(decimals)
        && !(whole.is_empty() && decimals.is_empty())
        && whole.len() <= 9
        && decimals.len() <= MAX_DECIMALS;
    if !sound {
        return Err(wrong());
    }
    let scale = 10_u128.pow(decimals.len() as u32);
    let parse = |part: &str| if part.is_empty() { Ok(0) } else { part.parse::<u128>() };
    let whole = parse(whole).map_err(|_| wrong())?;
    let value = whole * scale + parse(decimals).map_err(|_| wrong())?;
    if value > 100 * scale {
        return Err(format!("{text} is over 100 %; write a percentage from 0 to 100"));
    }
    let divisor = 100 * scale;
    let parts = (value * u128::from(MAX_SPLIT) * 2 + divisor) / (2 * divisor);
    Ok(Split::from_parts(parts as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact() {
        for (text, parts) in [
            ("0", 0),
            ("0%", 0),
            ("100%", MAX_SPLIT),
            ("100.000", MAX_SPLIT),
            ("50 %", MAX_SPLIT / 2),
            ("1%", 42_949_673),
            ("0.1%", 4_294_967),
            (".5", 21_474_836),
            ("25.", MAX_SPLIT / 4),
            ("0.00000002%", 1),
        ] {
            assert_eq!(parse_split(text).map(Split::parts), Ok(parts), "{text}");
        }
    }

    #[test]
    fn what_is_no_share_says_so() {
        for text in ["", "%", ".", "-1", "101", "100.0000001", "5,5", "1e2", "five", "NaN", "0x10"]
        {
            assert!(parse_split(text).is_err(), "{text}");
        }
    }
}
