export default (order) => {
  const subtotal = order.items.reduce((sum, item) => sum + item.price * item.count, 0);
  const rate = order.customer.tier === "gold" ? 0.2 : subtotal > 100 ? 0.1 : 0;
  const discount = Math.round(subtotal * rate * 100) / 100;
  return { id: order.id, subtotal, discount, total: subtotal - discount };
};
