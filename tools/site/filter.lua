-- What the book's syntax means. With Quarto, which knows callouts and cross-references itself, only the last two passes run.
-- The environment variable BOOK_CONTEXT names a JSON file: names (exported name → address), pages (notebook → address),
-- missing (notebooks not written yet), here (this notebook's path) and root (the way from this page to the site's root).
local in_quarto = quarto ~= nil
local context = { names = {}, pages = {}, missing = {}, here = "", root = "" }
local context_path = os.getenv("BOOK_CONTEXT")
if context_path then
  local file = assert(io.open(context_path, "r"))
  context = pandoc.json.decode(file:read("a"), false)
  file:close()
end

local stringify = pandoc.utils.stringify
local kinds = { eq = "Eq.", fig = "Figure", tbl = "Table", sec = "Section" }
local numbers, counts, titles, ids = {}, { eq = 0, fig = 0, tbl = 0 }, {}, {}

local function kind_of(id) return kinds[(id or ""):match("^(%a+)%-") or ""] and id:match("^(%a+)%-") end
local function html(s) return pandoc.RawBlock("html", s) end
local function number(id)
  local kind = kind_of(id)
  counts[kind] = counts[kind] + 1
  numbers[id] = counts[kind]
  return counts[kind]
end

-- 1. number equations, figures and tables; note the titles of sections ------------------------------------------------------

-- `$$…$$ {#eq-x}`: the number stands beside the formula, not in it, so that a wide formula scrolls under a number that stays
local function equations(inlines)
  local out, i = pandoc.Inlines({}), 1
  while i <= #inlines do
    local math, label, after = inlines[i], nil, nil
    if math.t == "Math" and math.mathtype == "DisplayMath" then
      local j = i + 1
      while inlines[j] and (inlines[j].t == "Space" or inlines[j].t == "SoftBreak") do j = j + 1 end
      if inlines[j] and inlines[j].t == "Str" then label, after = inlines[j].text:match("^{#(eq%-[%w_%-]+)}(.*)$") end
      if label then
        local link = pandoc.Link("(" .. number(label) .. ")", "#" .. label, "", { class = "eq-number", ["aria-label"] = "equation " .. counts.eq })
        out:insert(pandoc.Span({ math, link }, { id = label, class = "equation" }))
        if after ~= "" then out:insert(pandoc.Str(after)) end
        i = j
      else
        out:insert(pandoc.Span({ math }, { class = "equation" }))
      end
    else
      out:insert(math)
    end
    i = i + 1
  end
  return out
end

local function captioned(kind, id, caption)
  local start = { pandoc.Span({ pandoc.Str(kinds[kind] .. "\u{a0}" .. number(id)) }, { class = "float-number" }) }
  if #caption > 0 then start[2] = pandoc.Str(". ") end
  return pandoc.Inlines(start) .. caption
end

-- a comma after a short formula must not begin the next line, as browsers let it; a long formula has to stay breakable
local function closed(inlines)
  local i = 1
  while i < #inlines do
    local math, after = inlines[i], inlines[i + 1]
    local mark = math.t == "Math" and math.mathtype == "InlineMath" and #math.text <= 32 and after.t == "Str" and after.text:match("^[,.;:!?)]+")
    if mark then
      inlines[i] = pandoc.Span({ math, pandoc.Str(mark) }, { class = "closed" })
      if #mark == #after.text then inlines:remove(i + 1) else inlines[i + 1] = pandoc.Str(after.text:sub(#mark + 1)) end
    end
    i = i + 1
  end
  return inlines
end

-- a cell's float: `::: {#fig-x .cell-float}`, the picture or table, then the caption as the last paragraph
local function cell_float(div)
  if not div.classes:includes("cell-float") then return nil end
  local blocks = pandoc.Blocks(div.content)
  local caption = blocks:remove(#blocks).content
  local alt = div.attributes["fig-alt"] or ""
  return pandoc.Figure(blocks, { captioned(kind_of(div.identifier), div.identifier, caption) }, { id = div.identifier, ["fig-alt"] = alt })
end

local numbering = {
  Inlines = function(inlines) return closed(equations(inlines)) end,
  Div = cell_float,
  Figure = function(fig)
    if kind_of(fig.identifier) ~= "fig" or numbers[fig.identifier] then return nil end
    fig.caption.long = { pandoc.Plain(captioned("fig", fig.identifier, pandoc.utils.blocks_to_inlines(fig.caption.long))) }
    return fig
  end,
  Table = function(tbl)
    if kind_of(tbl.identifier) ~= "tbl" then return nil end
    tbl.caption.long = { pandoc.Plain(captioned("tbl", tbl.identifier, pandoc.utils.blocks_to_inlines(tbl.caption.long))) }
    return tbl
  end,
  Header = function(h) titles[h.identifier] = h.content end,
}

-- 2. references to what has a number; callouts; folded code; side notes ----------------------------------------------------

local function reference(cite)
  local out = pandoc.Inlines({})
  for i, c in ipairs(cite.citations) do
    local kind = kind_of(c.id)
    if not kind then return nil end
    if i > 1 then out:insert(pandoc.Str(", ")) end
    local text
    if kind == "sec" then
      text = titles[c.id] and (pandoc.Inlines("“") .. titles[c.id] .. pandoc.Inlines("”"))
    elseif numbers[c.id] then
      local named = c.mode == "SuppressAuthor" and "" or kinds[kind] .. "\u{a0}"
      text = pandoc.Inlines(named .. numbers[c.id])
    end
    out:insert(text and pandoc.Link(text, "#" .. c.id, "", { class = "quarto-xref" }) or pandoc.Strong("?@" .. c.id))
  end
  return out
end

local callout_names = { note = "Note", tip = "Tip", warning = "Warning", important = "Important", caution = "Caution" }

local function callout(div)
  local kind
  for _, class in ipairs(div.classes) do kind = kind or class:match("^callout%-(%a+)$") end
  if not kind then return nil end
  local title = div.attributes.title and pandoc.utils.blocks_to_inlines(pandoc.read(div.attributes.title, "markdown").blocks)
  if not title and div.content[1] and div.content[1].t == "Header" then title = div.content:remove(1).content end
  title = title or pandoc.Inlines(callout_names[kind] or kind)
  local class = "callout callout-" .. kind
  local fold = div.attributes.collapse
  if fold then
    local open = fold == "false" and " open" or ""
    return pandoc.Blocks({ html('<details class="' .. class .. '"' .. open .. '><summary>'), pandoc.Plain(title), html("</summary>") })
      .. div.content .. pandoc.Blocks({ html("</details>") })
  end
  div.content:insert(1, pandoc.Div({ pandoc.Plain(title) }, { class = "callout-title" }))
  return pandoc.Div(div.content, { id = div.identifier, class = class })
end

local function folded(code)
  local fold = code.attributes["code-fold"]
  if fold ~= "true" and fold ~= "show" then return nil end
  local summary = code.attributes["code-summary"] or "Code"
  code.attributes["code-fold"], code.attributes["code-summary"] = nil, nil
  local start = '<details class="code-fold"' .. (fold == "show" and " open" or "") .. "><summary>"
  return { html(start), pandoc.Plain({ pandoc.Str(summary) }), html("</summary>"), code, html("</details>") }
end

local notes = 0
local function sidenote(note)
  notes = notes + 1
  local mark = pandoc.Superscript({ pandoc.Str(tostring(notes)) })
  local text = pandoc.utils.blocks_to_inlines(note.content)
  return { mark, pandoc.Span(pandoc.Inlines({ mark, pandoc.Space() }) .. text, { class = "aside" }) }
end

-- columns as wide as what is in them, not as the dashes under their heads
local function scrolling(tbl)
  for _, spec in ipairs(tbl.colspecs) do spec[2] = nil end
  return pandoc.Div({ tbl }, { class = "table-scroll" })
end

-- a picture that says nothing of itself is described by its caption, whose references are resolved by now
local function described(fig)
  local alt = fig.attributes["fig-alt"]
  fig.attributes["fig-alt"] = nil
  alt = alt and alt ~= "" and alt or stringify(fig.caption.long)
  fig.content = fig.content:walk({ Image = function(img)
    if #img.caption == 0 then img.caption = { pandoc.Str(alt) } end
    return img
  end })
  return fig
end

local meaning = { Figure = described, Cite = reference, Div = callout, CodeBlock = folded, Note = sidenote,
                  Table = scrolling }

-- 3. citations: the list at the end, and each entry once more in the margin where it is first cited -------------------------

local function cited(doc)
  local cites, placed = false, false
  doc:walk({ Cite = function() cites = true end, Div = function(div) placed = placed or div.identifier == "refs" end })
  if cites and not placed then
    doc.blocks:extend({ pandoc.Header(2, "References", { id = "references" }), pandoc.Div({}, { id = "refs" }) })
  end
  doc = pandoc.utils.citeproc(doc)
  local entries, shown = {}, {}
  doc:walk({ Div = function(div)
    local key = div.identifier:match("^ref%-(.+)$")
    if key then entries[key] = pandoc.utils.blocks_to_inlines(div.content) end
  end })
  local function in_margin(cite)
    local out = pandoc.Inlines({ cite })
    for _, c in ipairs(cite.citations) do
      if entries[c.id] and not shown[c.id] then
        shown[c.id] = true
        out:insert(pandoc.Span(entries[c.id], { class = "aside margin-cite", ["aria-hidden"] = "true" }))
      end
    end
    return out
  end
  -- an address says in one word where it leads
  for key, entry in pairs(entries) do
    entries[key] = entry:walk({ Link = function(link)
      if stringify(link.content) ~= link.target then return nil end
      link.content = { pandoc.Str(link.target:match("arxiv%.org") and "arXiv" or link.target:match("doi%.org") and "doi" or "link") }
      return link
    end })
  end
  -- tables, callouts and captions have no margin of their own
  local leave = function(el) return el, false end
  return doc:walk({ traverse = "topdown", Cite = in_margin, Table = leave, Figure = leave, Header = leave,
    Div = function(div) if div.classes:includes("callout") or div.identifier == "refs" then return div, false end end })
end

-- 4. checks, and an anchor for each name that a cell defines ----------------------------------------------------------------

local function check(div)
  if not (div.classes:includes("cell-output") and div.content[1]) then return nil end
  if stringify(div.content[1]):sub(1, #"✓ ") == "✓ " then
    div.classes:insert("check")
    return div:walk({ Str = function(s) if s.text == "✓" then return pandoc.Span({ s }, { class = "tick" }) end end })
  end
end

local function anchors(code)
  if not code.classes:includes("python") then return nil end
  local longest = 0
  for line in code.text:gmatch("[^\n]+") do longest = math.max(longest, utf8.len(line) or #line) end
  local shown = longest > 84 and not in_quarto and pandoc.Div({ code }, { class = "wide" }) or code
  local found, class, patched = pandoc.Inlines({}), nil, nil
  local function anchor(name)
    local id = name:lower()
    if not ids[id] then
      ids[id] = true
      found:insert(pandoc.Span({}, { id = id, class = "name-anchor" }))
    end
  end
  for line in (code.text .. "\n"):gmatch("(.-)\n") do
    local name = line:match("^def ([%w_]+)") or line:match("^async def ([%w_]+)") or line:match("^([A-Z][A-Z0-9_]+)%s*[:=]")
    local new = line:match("^class ([%w_]+)")
    local method = line:match("^    def ([%w_]+)")
    if line:match("^%S") and not line:match("^[%)@]") then class = new end
    patched = line:match("^@patch_to%(([%w_]+)") or patched
    if name and patched then name, patched = patched .. "." .. name, nil end
    if name or new then anchor(name or new) end
    if class and method then anchor(class .. "." .. method) end
  end
  return #found > 0 and { pandoc.Plain(found), shown } or shown
end

-- 5. links: between notebooks, and from a name in backticks to where it is defined -------------------------------------------

local function normal(path)
  local parts = {}
  for part in path:gmatch("[^/]+") do
    if part == ".." then table.remove(parts) elseif part ~= "." then parts[#parts + 1] = part end
  end
  return table.concat(parts, "/")
end

-- the address of a notebook as seen from this page; nil: not one; false: in the book, not written yet
local function address(target)
  local path, anchor = target:match("^([^:#]+%.ipynb)(#?.*)$")
  if not path then return nil end
  path = normal((context.here:match("^(.*/)") or "") .. path)
  if context.pages[path] then return context.root .. context.pages[path] .. anchor end
  if context.missing[path] then return false end
  return nil
end

local function raw(el)
  if el.format ~= "html" then return nil end
  el.text = el.text:gsub('href="([^"]+%.ipynb[^"]*)"', function(target)
    local url = address(target)
    return url and 'href="' .. url .. '"' or url == false and 'class="missing"' or nil
  end)
  return el
end

local links = {
  traverse = "topdown",
  Header = function(h) return h, false end,
  Link = function(link)
    local url = not in_quarto and address(link.target)
    if url then link.target = url end
    if url == false and not in_quarto and link.target:match("%.ipynb") then
      return pandoc.Span(link.content, { class = "missing", title = "not written yet" }), false
    end
    return link, false
  end,
  Code = function(code)
    local name = code.text:gsub("%(.*%)$", "")
    local target = context.names[name]
    if target then return pandoc.Link(code, (in_quarto and "/" or context.root) .. target), false end
  end,
  RawBlock = not in_quarto and raw or nil,
  RawInline = not in_quarto and raw or nil,
}

function Pandoc(doc)
  if not in_quarto then
    doc = doc:walk(numbering)
    doc = doc:walk(meaning)
    doc = cited(doc)
  end
  doc:walk({ Header = function(h) ids[h.identifier] = true end })
  return doc:walk({ Div = check, CodeBlock = anchors }):walk(links)
end
