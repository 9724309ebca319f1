package policy

import (
	"math/big"
	"strconv"
	"strings"

	"golang.org/x/text/currency"

	"creditgate/meter"
)

// decodeMoney reads an amount with all decimals of its currency, as they stand on an invoice.
func decodeMoney(i item) Money {
	if text := i.number(); text != "" {
		i.failf("%s has no currency; write it after the amount, such as 45.00 EUR", text)
		return Money{}
	}
	text, ok := i.word("an amount with its currency, such as 45.00 EUR")
	if !ok {
		return Money{}
	}
	amount, code, _ := strings.Cut(text, " ")
	unit, err := currency.ParseISO(code)
	if err != nil || code != unit.String() {
		i.failf("%s is not a price; write an amount and the three letters of its currency, such as 45.00 EUR", show(text))
		return Money{}
	}
	decimals := Money{Currency: code}.decimals()
	whole, frac, _ := strings.Cut(amount, ".")
	shape, written := "45", "without decimals"
	if decimals > 0 {
		shape, written = shape+"."+strings.Repeat("0", decimals), "with "+count(decimals)
	}
	switch {
	case strings.HasPrefix(amount, "-") && wholeDigits(strings.Replace(amount[1:], ".", "", 1)):
		i.failf("%s is below 0; write what one pack costs", amount)
	case !wholeDigits(whole) || (len(whole) > 1 && whole[0] == '0') || (frac == "") != !strings.Contains(amount, ".") ||
		frac != "" && !wholeDigits(frac):
		i.failf("%s is not an amount of %s; write digits without separators, such as %s %s", show(amount), code, shape, code)
	case len(frac) != decimals:
		noun := "decimals"
		if len(frac) == 1 {
			noun = "decimal"
		}
		i.failf("%s has %s %s; %s is written %s, such as %s %s", amount, count(len(frac)), noun, code, written, shape, code)
	default:
		minor, err := strconv.ParseInt(whole+frac, 10, 64)
		switch {
		case err != nil || minor > priceMax:
			i.failf("%s is out of range; %s is the most", amount, Money{Minor: priceMax, Currency: code})
		case minor == 0:
			i.failf("costs nothing; a pack is sold, so write its price, and give free credit as a promotion or a grant")
		}
		return Money{Minor: minor, Currency: code}
	}
	return Money{}
}

// String is the amount as a policy writes it: 45.00 EUR.
func (m Money) String() string {
	return decimal(m.Minor, m.decimals()) + " " + m.Currency
}

// decimal writes n with its last digits behind a point.
func decimal(n int64, decimals int) string {
	sign := ""
	if n < 0 {
		sign = "-"
	}
	digits := strings.TrimPrefix(strconv.FormatInt(n, 10), "-")
	if len(digits) <= decimals {
		digits = strings.Repeat("0", decimals+1-len(digits)) + digits
	}
	if decimals == 0 {
		return sign + digits
	}
	return sign + digits[:len(digits)-decimals] + "." + digits[len(digits)-decimals:]
}

// dearer compares what one credit costs in two packs of one currency, exactly.
func (k *Pack) dearer(than *Pack) int {
	mine := new(big.Int).Mul(big.NewInt(k.Price.Minor), big.NewInt(int64(than.Credits)))
	return mine.Cmp(new(big.Int).Mul(big.NewInt(than.Price.Minor), big.NewInt(int64(k.Credits))))
}

// unitDecimals is how many digits a unit price may have beyond its currency's: a pack of 7 for 5.00 has no exact one.
const unitDecimals = 4

// UnitPrice is what one credit of the pack costs, in its currency: 0.90, and 0.714286 where it does not come out
// even, rounded at the last digit.
func (k *Pack) UnitPrice() string {
	if k.Credits <= 0 {
		return ""
	}
	decimals := k.Price.decimals()
	minor := new(big.Int).Mul(big.NewInt(k.Price.Minor), big.NewInt(int64(meter.Credit)))
	price := new(big.Rat).SetFrac(minor, big.NewInt(int64(k.Credits)))
	price.Quo(price, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil)))
	text := price.FloatString(decimals + unitDecimals)
	for range unitDecimals {
		text = strings.TrimSuffix(text, "0")
	}
	return strings.TrimSuffix(text, ".")
}

// DiscountPercent is how much less a credit of the pack costs than one of base, in whole percent rounded down: what is
// advertised is never more than what is given.
func (k *Pack) DiscountPercent(base *Pack) int {
	if k.Credits <= 0 || base.Price.Minor <= 0 || k.Price.Currency != base.Price.Currency {
		return 0
	}
	mine := new(big.Int).Mul(big.NewInt(k.Price.Minor), big.NewInt(int64(base.Credits)))
	theirs := new(big.Int).Mul(big.NewInt(base.Price.Minor), big.NewInt(int64(k.Credits)))
	saved := new(big.Int).Sub(theirs, mine)
	percent := saved.Mul(saved, big.NewInt(100)).Quo(saved, theirs)
	return max(0, int(percent.Int64()))
}

// decimals is how many digits of an amount stand behind the point.
func (m Money) decimals() int {
	unit, err := currency.ParseISO(m.Currency)
	if err != nil {
		return 0
	}
	n, _ := currency.Standard.Rounding(unit)
	return n
}
