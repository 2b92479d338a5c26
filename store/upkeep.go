package store

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// What was current compactRounds rounds ago is kept, 5 minutes in all. The
	// caches answer for the past, so etcd's history serves only loads; what is
	// older is denied all the same, as clients of an old list expect.
	compactEvery  = 150 * time.Second
	compactRounds = 2
	upkeepEvery   = 30 * time.Second
	// Defragmentation stops writes for as long as copying the live data
	// takes, so there must be much to gain.
	defragMin = 128 << 20
)

// runUpkeep drops history, trims logs and keeps etcd's file within its quota.
func (s *Store) runUpkeep() {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	round := time.NewTicker(compactEvery)
	defer round.Stop()
	rounds := []int64{s.feed.rev.Load()}
	s.watchSpace(rounds[0], false) // an alarm may stand from the last run
	for {
		urgent := false
		select {
		case <-s.ctx.Done():
			return
		case <-s.space:
			urgent = true
		case <-tick.C:
		case <-round.C:
			rounds = append(rounds, s.feed.rev.Load())
			if len(rounds) > compactRounds {
				s.forgotten.Store(rounds[0])
				s.compact(rounds[0])
				rounds = rounds[1:]
				s.defragment(false)
			}
			continue
		}
		now := time.Now()
		for _, r := range s.table.Load().byPath {
			r.log.trim(now)
			r.kept.trim(now)
		}
		s.watchSpace(s.feed.rev.Load(), urgent)
	}
}

// makeSpace asks upkeep to act at once.
func (s *Store) makeSpace() {
	select {
	case s.space <- struct{}{}:
	default:
	}
}

// compact drops the history before rev. Other servers of the same etcd may
// have done so already.
func (s *Store) compact(rev int64) {
	if rev <= 1 {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	_, err := s.etcd.client.Compact(ctx, rev, clientv3.WithCompactPhysical())
	switch {
	case err == nil, errors.Is(err, rpctypes.ErrCompacted), s.ctx.Err() != nil:
	default:
		if _, text := etcdCode(err); text != rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted) {
			s.log.Warn("compaction of etcd failed", "revision", rev, "err", err)
		}
	}
}

// defragment gives the file's free pages back when they are the larger part
// of a large file, or whenever there are any if forced.
func (s *Store) defragment(force bool) {
	if s.etcd.member == nil {
		return
	}
	b := s.etcd.member.Server.Backend()
	size, used := b.Size(), b.SizeInUse()
	if free := size - used; free <= 0 || !force && (size < defragMin || free < size/2) {
		return
	}
	begin := time.Now()
	if err := s.etcd.member.Server.Defragment(); err != nil {
		s.log.Warn("defragmentation of etcd failed", "err", err)
		return
	}
	s.log.Info("defragmented etcd", "before", size, "after", b.Size(), "took", time.Since(begin))
}

// watchSpace compacts and defragments when the file comes near the quota, and
// clears the alarm by which etcd refuses writes once there is room again.
func (s *Store) watchSpace(rev int64, urgent bool) {
	if s.etcd.member == nil {
		return // its owner's matter
	}
	srv := s.etcd.member.Server
	limit := srv.Cfg.QuotaBackendBytes
	high := limit / 10 * 9
	if urgent || srv.Backend().Size() > high {
		s.log.Warn("etcd's file is near its quota, making space", "size", srv.Backend().Size(), "quota", limit)
		s.compact(rev)
		s.defragment(true)
	}
	for _, a := range srv.Alarms() {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE || srv.Backend().Size() > high {
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
		_, err := s.etcd.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.MemberID, Alarm: a.Alarm})
		cancel()
		if err != nil {
			s.log.Warn("cannot clear etcd's space alarm", "err", err)
			continue
		}
		s.log.Info("etcd has space again, writes are accepted")
	}
}

// Size is how large the database's file is, and the id of its cluster; false
// when it is another's.
func (s *Store) Size() (cluster uint64, size int64, ok bool) {
	if s.etcd.member == nil {
		return 0, 0, false
	}
	srv := s.etcd.member.Server
	return uint64(srv.Cluster().ID()), srv.Backend().Size(), true
}
