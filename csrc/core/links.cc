// See links.h.
#include "core/links.h"

#include <algorithm>

#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/reports.h"

namespace tent {

namespace {

void apply(Engine &engine, Rail &rail, int32_t status, const std::string &sentence) {
    bool down = status != TENT_OK;
    if (rail.down == down) return;
    rail.down = down;
    report(engine, down ? TENT_EVENT_RAIL_DOWN : TENT_EVENT_RAIL_UP,
           {.rail = static_cast<int32_t>(rail.plan.index), .status = status},
           "rail %u (%s) is %s%s%s", rail.plan.index, rail.title.c_str(), down ? "down" : "up",
           sentence.empty() ? "" : ": ", sentence.c_str());
    endpoints_rail_changed(engine, rail, sentence.c_str());
}

bool has_interface(const Rail &rail) {
    return rail.info.flags & TENT_RAIL_LISTENS && rail.info.address[0];
}

bool act_on_plugins(Engine &engine) {
    if (engine.rail_news.empty()) return false;
    std::vector<RailNews> news;
    news.swap(engine.rail_news);
    for (const RailNews &item : news)
        for (auto &rail : engine.rails)  // it may be gone meanwhile
            if (rail.get() == item.rail) apply(engine, *rail, item.status, item.sentence);
    return true;
}

bool act_on_system(Engine &engine) {
    Links &links = *engine.links;
    links.readable = false;
    links.socket.step(links.watch);
    bool any = false;
    for (WatchedAddress &address : links.watch.addresses) {
        bool down = address.down();
        if (down == address.told_down) continue;
        address.told_down = down;
        any = true;
        for (auto &rail : engine.rails)
            if (has_interface(*rail) && rail->info.address == address.text)
                apply(engine, *rail, down ? TENT_E_TRANSPORT : TENT_OK, address.sentence());
    }
    return any;
}

}  // namespace

void links_rails_changed(Engine &engine) {
    bool any = std::any_of(engine.rails.begin(), engine.rails.end(),
                           [](const auto &rail) { return has_interface(*rail); });
    if (!any) return;
    if (!engine.links) {
        engine.links = std::make_unique<Links>();
        if (engine.links->socket.open() != TENT_OK)
            report(engine, TENT_EVENT_LOG, {.status = TENT_E_SYSTEM},
                   "%s: a lost link shows only by the slices that are late", last_error());
        control_watch_links(engine, engine.links->socket.fd());
    }
    Links &links = *engine.links;
    if (links.socket.fd() < 0) return;
    std::erase_if(links.watch.addresses, [&](const WatchedAddress &address) {
        return std::none_of(engine.rails.begin(), engine.rails.end(), [&](const auto &rail) {
            return has_interface(*rail) && rail->info.address == address.text;
        });
    });
    for (auto &rail : engine.rails)
        if (has_interface(*rail)) links.watch.add(rail->info.address);
    // A new rail may have an address that is down already.
    for (WatchedAddress &address : links.watch.addresses)
        if (address.down()) address.told_down = false;
    if (links.watch.dump_wanted) links.socket.dump(links.watch);
    links.readable = true;
}

void rail_news(Engine &engine, const Transport &transport, uint32_t index, int32_t status,
               const char *sentence) {
    for (auto &rail : engine.rails)
        if (rail->transport == &transport && !rail->retired && rail->plan.index == index)
            engine.rail_news.push_back({rail.get(), status, sentence});
}

bool links_step(Engine &engine) {
    bool moved = act_on_plugins(engine);
    if (engine.links && engine.links->readable) moved |= act_on_system(engine);
    return moved;
}

}  // namespace tent
