// News by RSS (2.0, 1.0) and Atom: a document of the newest articles, each with an id, becomes posts. Pure:
// text -> posts. XML is pugixml's business; it reads no DTD and opens no file.
#pragma once

#include <string_view>
#include <vector>

#include "post.hpp"

namespace tick::ingest {

// Appends the document's articles, oldest first, filled but for their symbols. An article's text is its title
// and what is left of its summary without markup; its time is never later than `received`, which stands for
// times that are missing. `bad` counts articles without an id or a text.
Decoded read_articles(std::string_view document, Timestamp received, std::vector<Post>& out);

}  // namespace tick::ingest
