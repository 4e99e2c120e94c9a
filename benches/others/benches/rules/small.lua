return function(order)
  local subtotal = 0
  for _, item in ipairs(order.items) do
    subtotal = subtotal + item.price * item.count
  end
  local rate = order.customer.tier == "gold" and 0.2 or subtotal > 100 and 0.1 or 0
  local discount = math.floor(subtotal * rate * 100 + 0.5) / 100
  return { id = order.id, subtotal = subtotal, discount = discount, total = subtotal - discount }
end
