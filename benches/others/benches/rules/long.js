const RATES = {
  DE: { standard: 0.19, reduced: 0.07 },
  FR: { standard: 0.2, reduced: 0.055 },
  SE: { standard: 0.25, reduced: 0.12 },
};
const TIERS = [
  { name: "bronze", from: 0, rate: 0 },
  { name: "silver", from: 500, rate: 0.05 },
  { name: "gold", from: 2000, rate: 0.1 },
];
const CODES = /^(SAVE|FLAT)-(\d{1,3})(?:-([A-Z]{2}))?$/;

class Line {
  constructor({ sku, price, count, kind }) {
    this.sku = sku;
    this.net = price * count;
    this.kind = kind ?? "standard";
  }
  tax(country) {
    return this.net * (RATES[country]?.[this.kind] ?? 0);
  }
}

function tierOf(spent) {
  let best = TIERS[0];
  for (const tier of TIERS) {
    if (spent >= tier.from) best = tier;
  }
  return best;
}

function codeOf(text, country) {
  const found = CODES.exec(text ?? "");
  if (!found) return () => 0;
  const [, kind, amount, only] = found;
  if (only && only !== country) return () => 0;
  return kind === "SAVE" ? (net) => (net * Number(amount)) / 100 : () => Number(amount);
}

const round = (amount) => Math.round(amount * 100) / 100;

function* grouped(lines) {
  const groups = new Map();
  for (const line of lines) {
    groups.set(line.kind, [...(groups.get(line.kind) ?? []), line]);
  }
  for (const [kind, group] of [...groups].sort(([a], [b]) => a.localeCompare(b))) {
    yield { kind, net: round(group.reduce((sum, line) => sum + line.net, 0)), skus: group.map((line) => line.sku) };
  }
}

export default (order) => {
  const { country, spent = 0 } = order.customer;
  const lines = order.items.map((item) => new Line(item));
  const net = lines.reduce((sum, line) => sum + line.net, 0);
  const tier = tierOf(spent);
  const discount = Math.min(net, net * tier.rate + codeOf(order.code, country)(net));
  const tax = lines.reduce((sum, line) => sum + line.tax(country), 0) * (net ? 1 - discount / net : 0);
  return {
    id: order.id, tier: tier.name, groups: [...grouped(lines)],
    net: round(net), discount: round(discount), tax: round(tax), total: round(net - discount + tax),
  };
};
